package mirror

import (
	"context"
	"errors"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Trust decides which tags of sources may be mirrored.
type Trust interface {
	// Verify returns, for each tag, an error if it must not be mirrored to the digest. A zero tag
	// stands for the digest itself. get returns the manifest. pulls is how many other manifests
	// Verify has pulled.
	Verify(ctx context.Context, source reference.Repository, digest reference.Digest, tags []reference.Tag, get func(context.Context) (registry.Manifest, error)) (pulls int, errs []error)
}

// AnyTag is a Trust that accepts every tag.
type AnyTag struct{}

// Verify implements Trust.
func (AnyTag) Verify(_ context.Context, _ reference.Repository, _ reference.Digest, tags []reference.Tag, _ func(context.Context) (registry.Manifest, error)) (pulls int, errs []error) {
	return 0, make([]error, len(tags))
}

// IsTrusting reports whether every tag may be mirrored.
func (m *Mirror) IsTrusting() bool {
	_, any := m.Trust.(AnyTag)
	return any
}

// Verify returns, for each tag, an error if it must not be mirrored to the digest, and how many
// manifests Verify has pulled. A zero tag stands for the digest itself. CopyImage does not pull a
// manifest again that Verify has just pulled.
func (m *Mirror) Verify(ctx context.Context, source reference.Repository, digest reference.Digest, tags []reference.Tag) (pulls int, errs []error) {
	c := m.copying(source, reference.Repository{})
	pulls, errs = m.Trust.Verify(ctx, source, digest, tags, func(ctx context.Context) (registry.Manifest, error) {
		if known, ok := m.verified.get(manifestAt{source, digest}); ok {
			return known, nil
		}
		if index, ok := m.keptIndex(ctx, source, digest); ok {
			return index, nil
		}
		pulled, err := c.pull(ctx, digest)
		if err == nil {
			m.verified.keep(manifestAt{source, digest}, pulled)
		}
		return pulled, err
	})
	return pulls + int(c.pulls.Load()), errs
}

// Unwanted reports whether Verify has just pulled the digest and found an index without any wanted
// platform.
func (m *Mirror) Unwanted(source reference.Repository, digest reference.Digest, wanted platform.Wanted) bool {
	known, ok := m.verified.get(manifestAt{source, digest})
	if !ok || !known.IsIndex() || wanted.All() {
		return false
	}
	_, _, err := wanted.Subset(known)
	return errors.Is(err, platform.ErrNoPlatform)
}

// maxRead is how many manifests are kept between their verification and their copy: more than a
// worker copies at once.
const maxRead = 64

// read keeps manifests of sources that Verify has pulled.
type read struct {
	manifests *lru.Cache[manifestAt, registry.Manifest]
}

func newRead() *read {
	manifests, _ := lru.New[manifestAt, registry.Manifest](maxRead) // the only error is that of a size below 1
	return &read{manifests}
}

func (r *read) keep(at manifestAt, m registry.Manifest) {
	if len(m.Raw) <= maxLarge {
		r.manifests.Add(at, m)
	}
}

func (r *read) get(at manifestAt) (registry.Manifest, bool) { return r.manifests.Get(at) }
