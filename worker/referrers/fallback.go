package referrers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// ErrOccupied is returned if the fallback tag is on something that is not an OCI
// index. The OCI distribution specification forbids replacing it.
var ErrOccupied = errors.New("the tag for referrers is on something else")

// annotationSource is on an index of referrers that has others beside the source's. It is
// the digest of the source's index.
const annotationSource = "io.osism.skopeo-worker.referrers"

// emptyIndex is the index to which the first referrers are added.
var emptyIndex = registry.Manifest{
	Raw:       []byte(`{"schemaVersion":2,"mediaType":"` + types.OCIImageIndex + `","manifests":[]}`),
	MediaType: string(types.OCIImageIndex),
}

// Announce lists the referrers at the destination, which must hold all of them. A
// registry with the referrers API lists them itself. At any other registry, the
// client that pushes them has to list them in the index under the fallback tag.
// It puts nothing if nothing is missing, and loses no listed referrer: if HEAD denies the
// tag, it asks again with GET. The error may be ErrOccupied.
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

// serves reports whether the registry has the referrers API.
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
// another than the one held, which is the zero Manifest if there is none. The
// same input gives the same digest.
//
// If the source has an index under that tag, lists just the list's referrers in it,
// and nothing else is held, that index is taken as it is: the tag then has the source's
// digest, as any mirrored tag. The referrers of other clients are kept: held entries keep
// their places and fields, and missing ones follow in the order of their digests.
// An annotation then says which index of the source is in it: see Current. The errors
// are ErrOccupied and registry.ErrBadManifest.
func Fallback(held registry.Manifest, list List) (index registry.Manifest, changed bool, err error) {
	switch {
	case held.Raw == nil:
		held = emptyIndex
	case held.MediaType != string(types.OCIImageIndex):
		return registry.Manifest{}, false, fmt.Errorf("%w: %s", ErrOccupied, held.MediaType)
	}
	entries, err := held.Entries()
	if err != nil {
		return registry.Manifest{}, false, err
	}
	if list.tagged() && !slices.ContainsFunc(entries, func(entry registry.Entry) bool { return !list.has(entry.Digest) }) {
		return list.Tagged, held.Digest != list.Tagged.Digest, nil
	}
	listed := List{Referrers: entries}
	missing := slices.DeleteFunc(slices.Clone(list.Referrers), func(entry registry.Entry) bool { return listed.has(entry.Digest) })
	if len(missing) == 0 && (!list.tagged() || Current(held, list.Tagged.Digest)) {
		return held, false, nil
	}
	slices.SortFunc(missing, func(a, b registry.Entry) int { return cmp.Compare(a.Digest.String(), b.Digest.String()) })
	var made map[string]string
	if list.tagged() {
		made = map[string]string{annotationSource: list.Tagged.Digest.String()}
	}
	index, err = held.WithEntries(append(entries, missing...), made)
	return index, true, err
}

// Current reports whether an index under a fallback tag has all that is in the source's
// index with the digest.
func Current(held registry.Manifest, source reference.Digest) bool {
	if held.Digest == source {
		return true
	}
	var index struct {
		Annotations map[string]string `json:"annotations"`
	}
	return held.MediaType == string(types.OCIImageIndex) && json.Unmarshal(held.Raw, &index) == nil &&
		index.Annotations[annotationSource] == source.String()
}

// Retag returns the manifest on which to put a fallback tag to mirror the source's, if the tag is on
// held now: the Fallback of the source's index, or the source's manifest unchanged if either of the
// two is not a list of referrers. Images may have such tags, too.
func Retag(held, source registry.Manifest) (registry.Manifest, error) {
	list := List{Tagged: source}
	for _, m := range []registry.Manifest{held, source} {
		if m.MediaType != string(types.OCIImageIndex) {
			return source, nil
		}
		entries, err := m.Entries()
		if err != nil || slices.ContainsFunc(entries, func(entry registry.Entry) bool { return entry.Platform != "" }) {
			return source, nil
		}
		list.Referrers = nil
		for _, entry := range entries {
			list.add(entry)
		}
	}
	index, _, err := Fallback(held, list)
	return index, err
}

// tagged reports whether the index it was found in lists just the referrers that
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
