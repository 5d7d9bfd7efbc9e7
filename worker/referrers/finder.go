// Package referrers finds the referrers of an image (signatures, SBOMs, attestations), and lists
// them at the destination.
package referrers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// ErrTooMany is returned for an image with more than 1,000 referrers.
var ErrTooMany = errors.New("too many referrers")

// maxReferrers is how many referrers an image may have, including indirect ones. Tools make a few
// for each release; a hostile list may have any number.
const maxReferrers = 1000

// Finder asks registries for referrers.
type Finder struct {
	Registry *registry.Client
	// Pulled is called before each pull; it is optional. Reading a fallback tag is a pull, and a
	// request to the referrers API is none.
	Pulled func(repository reference.Repository)
	// Held returns a manifest that needs no pull. It is optional.
	Held func(ctx context.Context, digest reference.Digest) (m registry.Manifest, held bool)
}

// List has the direct referrers of a manifest.
type List struct {
	Subject   reference.Digest
	Referrers []registry.Entry // without duplicates, in the registry's order
	// Tagged is the index under FallbackTag(Subject) that lists them; zero if the referrers API
	// listed them.
	Tagged registry.Manifest
}

// Find returns the direct referrers of a digest, of which there may be none. It asks the referrers
// API, or reads the fallback tag if the registry does not have the API. As the OCI distribution
// specification requires, it ignores a fallback tag that is not on an OCI index.
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

// findTagged reads the fallback tag. It sends a HEAD first, because most images have no such tag, and
// most existing indexes are mirrored already, so that no pull is needed.
func (f *Finder) findTagged(ctx context.Context, repository reference.Repository, digest reference.Digest) (List, error) {
	found := List{Subject: digest}
	head, err := f.Registry.Head(ctx, repository, FallbackTag(digest))
	if errors.Is(err, registry.ErrNotFound) {
		return found, nil
	}
	if err != nil {
		return List{}, err
	}
	if head.Kind() == registry.IsManifest && head.MediaType != string(types.OCIImageIndex) {
		return found, nil
	}
	tagged, err := f.get(ctx, repository, head.Digest) // also if the answer to HEAD states no media type of a manifest
	if err != nil {
		return List{}, err
	}
	if tagged.MediaType != string(types.OCIImageIndex) {
		return found, nil
	}
	found.Tagged = tagged
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

// get reads a manifest. It pulls the manifest if Held does not return it.
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

// add adds an entry unless the list has it: pages overlap if a referrer is pushed meanwhile.
func (l *List) add(entry registry.Entry) {
	if !l.has(entry.Digest) {
		l.Referrers = append(l.Referrers, entry)
	}
}

func (l *List) has(digest reference.Digest) bool {
	return slices.ContainsFunc(l.Referrers, func(entry registry.Entry) bool { return entry.Digest == digest })
}

// Walk calls visit with the referrers of a digest, then with those of each referrer, and so on. If
// the referrers of one manifest cannot be read, it continues with the others. It ends at the first
// error that Failures.Add does not accept, or with ErrTooMany above 1,000 referrers.
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

// Failures are errors that concern single manifests, so that other manifests are still copied.
type Failures []error

// ofOne are the errors that concern a single manifest. Others, such as a limit, concern the
// registry.
var ofOne = []error{
	registry.ErrNotFound, registry.ErrDenied, registry.ErrRejected, registry.ErrDigestMismatch, registry.ErrBadManifest,
	registry.ErrTooLarge, registry.ErrTooMany, registry.ErrPage, registry.ErrUnexpected, ErrOccupied, ErrTooMany,
}

// Add adds an error. It returns false, and does not add it, if the error concerns more than one
// manifest.
func (f *Failures) Add(err error) bool {
	asked := (*registry.Error)(nil)
	broken := errors.As(err, &asked) && asked.Status >= http.StatusInternalServerError
	if !broken && !slices.ContainsFunc(ofOne, func(one error) bool { return errors.Is(err, one) }) {
		return false
	}
	*f = append(*f, err)
	return true
}

// Err returns the first failure that may pass, or else the first one, with the number of the
// others. It returns nil if there are none.
func (f Failures) Err() error {
	switch len(f) {
	case 0:
		return nil
	case 1:
		return f[0]
	}
	shown := max(0, slices.IndexFunc(f, func(err error) bool {
		return errors.Is(err, registry.ErrUnavailable) || errors.Is(err, registry.ErrPage)
	}))
	return fmt.Errorf("%w (and %d more)", f[shown], len(f)-1)
}
