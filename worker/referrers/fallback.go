package referrers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// ErrOccupied is returned where the fallback tag is on something that is no OCI
// index. The OCI distribution specification forbids to replace it.
var ErrOccupied = errors.New("the tag for referrers is on something else")

// emptyIndex is what a list begins with where there is none.
var emptyIndex = registry.Manifest{
	Raw:       []byte(`{"schemaVersion":2,"mediaType":"` + types.OCIImageIndex + `","manifests":[]}`),
	MediaType: string(types.OCIImageIndex),
}

// Announce makes the referrers in the list, all of which the destination must
// hold, found there. A registry with the referrers API finds them itself. In any
// other it is the duty of who pushes them: the index under the fallback tag.
// Nothing is put where nothing is missing, and nothing that is there is lost: what HEAD
// denies is asked for by GET. The error may be ErrOccupied.
//
// Clients can only replace the index as a whole, so of two that write at once one
// may be lost; the next Announce repairs that.
func Announce(ctx context.Context, client *registry.Client, destination reference.Repository, list List) error {
	if len(list.Referrers) == 0 {
		return nil
	}
	served, err := serves(ctx, client, destination, list.Subject)
	if err != nil || served {
		return err
	}
	tag := FallbackTag(list.Subject)
	var held registry.Manifest
	head, err := client.Find(ctx, destination, tag)
	switch {
	case err == nil:
		if head.Digest == list.Tagged.Digest && list.tagged() {
			return nil
		}
		if held, err = client.Get(ctx, destination, head.Digest); err != nil && !errors.Is(err, registry.ErrNotFound) {
			return err
		}
	case !registry.Absent(err):
		return err
	}
	index, changed, err := Fallback(held, list)
	if err != nil {
		return fmt.Errorf("%s:%s: %w", destination, tag, err)
	}
	if !changed {
		return nil
	}
	return client.Put(ctx, destination, tag, index)
}

// serves tells whether the registry has the referrers API.
func serves(ctx context.Context, client *registry.Client, repository reference.Repository, digest reference.Digest) (bool, error) {
	for _, err := range client.Referrers(ctx, repository, digest) {
		if errors.Is(err, registry.ErrNoReferrersAPI) {
			return false, nil
		}
		return err == nil, err
	}
	return true, nil
}

// Fallback returns the index for FallbackTag(list.Subject), and whether it is
// another than the one held, which is the zero Manifest where there is none. The
// same input gives the same digest.
//
// Nobody else's referrers are lost: what is held keeps its place and its fields,
// and what is missing comes after it in the order of the digests. Where nothing is
// held and the source's index lists just the list's referrers, that is taken as it
// is: the tag then has the source's digest, as any mirrored tag. The errors are
// ErrOccupied and registry.ErrBadManifest.
func Fallback(held registry.Manifest, list List) (index registry.Manifest, changed bool, err error) {
	switch {
	case held.Raw == nil && list.tagged():
		return list.Tagged, true, nil
	case held.Raw == nil:
		held = emptyIndex
	case held.MediaType != string(types.OCIImageIndex):
		return registry.Manifest{}, false, fmt.Errorf("%w: %s", ErrOccupied, held.MediaType)
	}
	entries, err := held.Entries()
	if err != nil {
		return registry.Manifest{}, false, err
	}
	there := List{Referrers: entries}
	var missing []registry.Entry
	for _, entry := range list.Referrers {
		if !there.has(entry.Digest) {
			missing = append(missing, entry)
		}
	}
	if len(missing) == 0 {
		return held, false, nil
	}
	slices.SortFunc(missing, func(a, b registry.Entry) int { return cmp.Compare(a.Digest.String(), b.Digest.String()) })
	index, err = held.WithEntries(append(entries, missing...), nil)
	return index, true, err
}

// tagged tells whether the index it was found in lists just the referrers that
// are still in the list.
func (l *List) tagged() bool {
	entries, err := l.Tagged.Entries()
	if err != nil || l.Tagged.Raw == nil {
		return false
	}
	index := List{}
	for _, entry := range entries {
		index.add(entry)
	}
	return len(index.Referrers) == len(l.Referrers) &&
		!slices.ContainsFunc(l.Referrers, func(entry registry.Entry) bool { return !index.has(entry.Digest) })
}
