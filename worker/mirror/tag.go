package mirror

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Target is a tag at the destination.
type Target struct {
	Repository reference.Repository
	Tag        reference.Tag
	// Referrers means that, if the tag is a list of referrers, the destination's own entries
	// are kept.
	Referrers bool
}

// lists reports whether the tag may be a list of referrers.
func (t Target) lists() bool { return t.Referrers && referrers.IsFallback(t.Tag) }

// Tagged returns the digest that the destination has under the tag; zero if it has none. It does not
// trust a HEAD that answers "not found": the image would be copied in each run.
func (m *Mirror) Tagged(ctx context.Context, destination reference.Repository, tag reference.Tag) (reference.Digest, error) {
	d, err := m.destination.Look(ctx, destination, tag)
	if registry.Absent(err) {
		return reference.Digest{}, nil
	}
	return d.Digest, err
}

// Holds returns the descriptor of a digest at the destination, and reports whether the destination
// has it, with or without a tag.
func (m *Mirror) Holds(ctx context.Context, destination reference.Repository, digest reference.Digest) (registry.Descriptor, bool, error) {
	d, err := m.destination.Head(ctx, destination, digest)
	if registry.Absent(err) {
		m.seen.missing(manifestAt{destination, digest})
		return registry.Descriptor{}, false, nil
	}
	return d, err == nil, err
}

// Empty reports whether the destination repository has no tags.
func (m *Mirror) Empty(ctx context.Context, destination reference.Repository) (bool, error) {
	for _, err := range m.destination.Tags(ctx, destination) {
		switch {
		case registry.Absent(err):
			m.seen.noTags(destination)
			return true, nil
		case errors.Is(err, reference.ErrInvalidTag): // still a tag
			return false, nil
		}
		return false, err
	}
	m.seen.noTags(destination)
	return true, nil
}

// Tags returns the tags of a destination repository; nil if the repository does not exist.
func (m *Mirror) Tags(ctx context.Context, destination reference.Repository) (map[reference.Tag]bool, error) {
	tags := map[reference.Tag]bool{}
	for tag, err := range m.destination.Tags(ctx, destination) {
		switch {
		case registry.Absent(err):
			return nil, nil
		case errors.Is(err, reference.ErrInvalidTag): // not one of ours
			continue
		case err != nil:
			return nil, err
		}
		tags[tag] = true
	}
	return tags, nil
}

// copied returns a manifest that was copied to the destination, or that Tag will put there under its
// first tag. If the destination lacks it, the error is ErrVanished and does not wrap that of the
// registry, which would look as if the source lacked it.
func (m *Mirror) copied(ctx context.Context, destination reference.Repository, digest reference.Digest) (registry.Manifest, error) {
	if known, ok := m.seen.get(manifestAt{destination, digest}); ok {
		return known.Manifest, nil
	}
	manifest, err := m.destination.Get(ctx, destination, digest)
	if errors.Is(err, registry.ErrNotFound) {
		return manifest, fmt.Errorf("%w: %v", ErrVanished, err)
	}
	return manifest, err
}

// Current reports whether the destination's tag is up to date for the source's digest. It also returns
// the tag's digest; zero if the tag does not exist or its manifest cannot be read. It takes one request
// at the destination, and two for a list of referrers that differs from the source's.
func (m *Mirror) Current(ctx context.Context, to Target, digest reference.Digest, wanted platform.Wanted) (bool, reference.Digest, error) {
	return m.currentAs(ctx, to, digest, wanted, func() (reference.Digest, error) { return m.Tagged(ctx, to.Repository, to.Tag) })
}

// First is Current for the first tag that is looked up in a repository. If the repository lacks the
// tag, First also reports whether it has no tags at all, as far as that saves requests: if more tags
// will be looked up, or if a HEAD that answers "not found" may be wrong.
func (m *Mirror) First(ctx context.Context, to Target, digest reference.Digest, wanted platform.Wanted, more bool) (current bool, have reference.Digest, empty bool, err error) {
	listed := false
	none := func() bool {
		listed = true
		empty, err := m.Empty(ctx, to.Repository)
		return err == nil && empty // otherwise each tag is looked up
	}
	current, have, err = m.currentAs(ctx, to, digest, wanted, func() (reference.Digest, error) {
		d, certain, err := m.destination.Glance(ctx, to.Repository, to.Tag)
		if registry.Absent(err) && !certain {
			if empty = none(); !empty {
				d, err = m.destination.FindByGet(ctx, to.Repository, to.Tag)
			}
		}
		if registry.Absent(err) {
			return reference.Digest{}, nil
		}
		return d.Digest, err
	})
	if err == nil && have.IsZero() && more && !listed {
		empty = none()
	}
	return current, have, empty, err
}

// currentAs is Current with a function that returns the digest of the tag; zero if it does not exist.
func (m *Mirror) currentAs(ctx context.Context, to Target, digest reference.Digest, wanted platform.Wanted, tagged func() (reference.Digest, error)) (bool, reference.Digest, error) {
	current, have, err := m.current(ctx, to, digest, wanted, tagged)
	if err == nil && have.IsZero() {
		m.seen.missing(manifestAt{to.Repository, digest})
	}
	if err != nil && m.Unreadable(ctx, to.Repository, err) {
		return false, reference.Digest{}, nil
	}
	return current, have, err
}

func (m *Mirror) current(ctx context.Context, to Target, digest reference.Digest, wanted platform.Wanted, tagged func() (reference.Digest, error)) (bool, reference.Digest, error) {
	if wanted.All() {
		have, err := tagged()
		if err != nil || have.IsZero() || have == digest || !to.lists() {
			return err == nil && have == digest, have, err
		}
	}
	manifest, err := m.destination.Get(ctx, to.Repository, to.Tag)
	if registry.Absent(err) {
		return false, reference.Digest{}, nil
	}
	if err != nil {
		return false, reference.Digest{}, err
	}
	return wanted.Current(manifest, digest) || to.lists() && referrers.Current(manifest, digest), manifest.Digest, nil
}

// Unreadable reports whether an error is about the content of a manifest in the repository and not
// about the destination. Such a manifest counts as missing, and is replaced. A web page in place of
// the manifest counts as its content only if the repository answers other requests: a proxy's page
// would come for all of them.
func (m *Mirror) Unreadable(ctx context.Context, destination reference.Repository, err error) bool {
	switch {
	case errors.Is(err, registry.ErrBadManifest), errors.Is(err, registry.ErrDigestMismatch), errors.Is(err, registry.ErrTooLarge):
		return true
	case errors.Is(err, registry.ErrPage):
		_, err := m.Empty(ctx, destination)
		return err == nil
	}
	return false
}

// Tag tags a manifest that CopyImage has copied or that the destination repository has. It sends no
// request to the source.
func (m *Mirror) Tag(ctx context.Context, to Target, digest reference.Digest) error {
	at := manifestAt{to.Repository, digest}
	manifest, err := m.copied(ctx, to.Repository, digest)
	if err != nil {
		return fmt.Errorf("reading the manifest to tag as %s: %w", to.Tag, err)
	}
	if !to.lists() {
		return m.put(ctx, at, to.Tag, manifest)
	}
	// The next run reads the source's list under its digest.
	if err := m.settle(ctx, at); err != nil {
		return err
	}
	subject, _ := selection.Companion(to.Tag.String())
	lock := m.announcement(subject)
	lock.Lock()
	defer lock.Unlock()
	held, err := m.destination.Get(ctx, to.Repository, to.Tag)
	if err != nil && !registry.Absent(err) && !m.Unreadable(ctx, to.Repository, err) {
		return fmt.Errorf("reading the referrers that %s lists: %w", to.Tag, err)
	}
	if manifest, err = referrers.Retag(held, manifest); err != nil {
		return fmt.Errorf("adding to the referrers that %s lists: %w", to.Tag, err)
	}
	if manifest.Digest == held.Digest {
		return nil
	}
	return m.put(ctx, manifestAt{to.Repository, manifest.Digest}, to.Tag, manifest)
}

// Below returns the manifests below an index at the destination, nested indexes included; none if the
// digest is not that of an index. It takes no pull.
func (m *Mirror) Below(ctx context.Context, destination reference.Repository, digest reference.Digest) ([]reference.Digest, error) {
	var all []reference.Digest
	seen := map[reference.Digest]bool{digest: true}
	for next := []reference.Digest{digest}; len(next) > 0; next = next[1:] {
		index, err := m.copied(ctx, destination, next[0])
		if err != nil {
			return nil, err
		}
		children, err := index.Children()
		if err != nil {
			return nil, err
		}
		for _, child := range children {
			if child.Kind() != registry.IsManifest || seen[child.Digest] {
				continue
			}
			seen[child.Digest] = true
			all = append(all, child.Digest)
			if types.MediaType(child.MediaType).IsIndex() {
				next = append(next, child.Digest)
			}
		}
	}
	return all, nil
}

// announcement returns the lock of the list of a digest's referrers. Without it, one of two concurrent
// changes to the list would be lost.
func (m *Mirror) announcement(subject reference.Digest) *sync.Mutex {
	first, _ := strconv.ParseUint(subject.Hex()[:2], 16, 8)
	return &m.announcing[first]
}
