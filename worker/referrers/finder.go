// Package referrers finds the referrers of an image (signatures, SBOMs,
// attestations), and lists them at the destination.
package referrers

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// ErrTooMany is returned for an image with more than 1,000 referrers.
var ErrTooMany = errors.New("too many referrers")

// maxReferrers of one image, indirect ones included, is far beyond what tools
// make (some a release), and ends a hostile list.
const maxReferrers = 1000

// Finder asks registries for referrers.
type Finder struct {
	Registry *registry.Client
	// Pulled is called just before every pull; it is optional. The referrers API takes none,
	// the fallback tag takes one if it exists.
	Pulled func(repository reference.Repository)
	// Held returns a manifest that needs no pull. It is optional.
	Held func(ctx context.Context, digest reference.Digest) (m registry.Manifest, held bool)
}

// List is the direct referrers of one manifest.
type List struct {
	Subject   reference.Digest
	Referrers []registry.Entry // each digest once, in the registry's order
	// Tagged is the index under FallbackTag(Subject) that they were found in; the
	// zero value if the referrers API listed them.
	Tagged registry.Manifest
}

// Find returns the direct referrers of a digest; it is not an error if there are none.
// It asks the referrers API, or reads the fallback tag if the registry does not have the
// API. According to the OCI distribution specification, a fallback tag that is not an OCI
// index lists nothing.
func (f *Finder) Find(ctx context.Context, repository reference.Repository, digest reference.Digest) (List, error) {
	found := List{Subject: digest}
	for entry, err := range f.Registry.Referrers(ctx, repository, digest) {
		if errors.Is(err, registry.ErrNoReferrersAPI) {
			return f.findTagged(ctx, repository, digest)
		}
		if err != nil {
			return List{}, err
		}
		found.add(entry)
		if len(found.Referrers) > maxReferrers {
			return List{}, tooMany(repository, digest)
		}
	}
	return found, nil
}

// findTagged reads the fallback tag. It looks before it pulls: most images have none, and
// of the others the index has mostly been mirrored before.
func (f *Finder) findTagged(ctx context.Context, repository reference.Repository, digest reference.Digest) (List, error) {
	found := List{Subject: digest}
	head, err := f.Registry.Head(ctx, repository, FallbackTag(digest))
	if errors.Is(err, registry.ErrNotFound) {
		return found, nil
	}
	if err != nil {
		return List{}, err
	}
	if head.MediaType != string(types.OCIImageIndex) {
		return found, nil
	}
	if found.Tagged, err = f.get(ctx, repository, head.Digest); err != nil {
		return List{}, err
	}
	entries, err := found.Tagged.Entries()
	if err != nil {
		return List{}, fmt.Errorf("%s:%s: %w", repository, FallbackTag(digest), err)
	}
	if len(entries) > maxReferrers {
		return List{}, tooMany(repository, digest)
	}
	for _, entry := range entries {
		found.add(entry)
	}
	return found, nil
}

// get reads a manifest, with a pull if it is not held.
func (f *Finder) get(ctx context.Context, repository reference.Repository, digest reference.Digest) (registry.Manifest, error) {
	if f.Held != nil {
		if m, held := f.Held(ctx, digest); held {
			return m, nil
		}
	}
	if f.Pulled != nil {
		f.Pulled(repository)
	}
	return f.Registry.Get(ctx, repository, digest)
}

// add adds an entry unless it is listed already: pages overlap if a referrer is pushed
// meanwhile.
func (l *List) add(entry registry.Entry) {
	if !l.has(entry.Digest) {
		l.Referrers = append(l.Referrers, entry)
	}
}

func (l *List) has(digest reference.Digest) bool {
	return slices.ContainsFunc(l.Referrers, func(entry registry.Entry) bool { return entry.Digest == digest })
}

// Walk calls visit with the referrers of a digest, then with theirs, and so on:
// once for each manifest that has any, subjects before their referrers. It ends at visit's first error that Failures does not take, and with
// ErrTooMany above 1,000 referrers. A list that can't be read hides no other.
func (f *Finder) Walk(ctx context.Context, repository reference.Repository, digest reference.Digest, visit func(List) error) error {
	seen := map[reference.Digest]bool{digest: true}
	var failed Failures
	for next := []reference.Digest{digest}; len(next) > 0; next = next[1:] {
		list, err := f.Find(ctx, repository, next[0])
		for _, entry := range list.Referrers {
			if !seen[entry.Digest] {
				seen[entry.Digest] = true
				next = append(next, entry.Digest)
			}
		}
		if len(seen) > maxReferrers+1 {
			return tooMany(repository, digest)
		}
		if err == nil && len(list.Referrers) > 0 {
			err = visit(list)
		}
		if err != nil && !failed.Add(err) {
			return err
		}
	}
	return failed.Err()
}

func tooMany(repository reference.Repository, digest reference.Digest) error {
	return fmt.Errorf("%s@%s: %w: more than %d", repository, digest, ErrTooMany, maxReferrers)
}
