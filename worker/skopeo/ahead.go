package skopeo

import (
	"bytes"
	"context"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// maxKept is the size in bytes up to which this process keeps a blob in memory: before skopeo
	// requests it, and until skopeo states its digest. Most configurations have some kilobytes.
	maxKept = 128 << 10

	// layersAhead is how many layers skopeo copies at once (copy.maxParallelDownloads of
	// containers/image). It begins with the first ones.
	layersAhead = 6
)

// ahead is a small blob that is looked up at the destination, and requested from the source if it is
// missing there, while skopeo starts. skopeo would do one after the other.
type ahead struct {
	looked chan struct{} // closed when the blob is claimed, or not missing
	failed error         // of the look-up
	comes  bool          // the content was requested

	came    chan struct{} // closed when the source has sent the content
	content []byte
	err     error
}

// lookAhead begins with the blobs of an image that skopeo requests first, and with the configuration,
// which it always reads. Layers that skopeo begins later must not be claimed: others would wait for
// them, and skopeo might wait for those. The caller holds i.mu.
func (i *serving) lookAhead(of *served, blobs []registry.Descriptor) {
	layers := 0
	for _, blob := range blobs {
		isConfig := types.MediaType(blob.MediaType).IsConfig()
		if !isConfig {
			layers++
		}
		late := !isConfig && layers > layersAhead
		if _, twice := i.ahead[blob.Digest.String()]; twice || late || blob.Size <= 0 || blob.Size > maxKept {
			continue
		}
		a := &ahead{looked: make(chan struct{}), came: make(chan struct{})}
		i.ahead[blob.Digest.String()] = a
		if isConfig {
			go of.read(a, blob)
		}
		go func() {
			var missing bool
			missing, a.failed = i.claim(of.ctx, listed{blob, of})
			a.comes = missing || isConfig
			close(a.looked)
			if missing && !isConfig {
				of.read(a, blob)
			}
		}()
	}
}

// read reads a blob of the source.
func (s *served) read(a *ahead, blob registry.Descriptor) {
	defer close(a.came)
	content, err := s.Open(s.ctx, blob)
	if err != nil {
		a.err = err
		return
	}
	defer func() { _ = content.Close() }()
	a.content, a.err = io.ReadAll(content)
}

// claim looks for a blob at the destination, and claims it if it is missing.
func (i *serving) claim(ctx context.Context, blob listed) (missing bool, err error) {
	release, err := blob.of.Claim(ctx, blob.Descriptor)
	if missing = release != nil; missing {
		i.claims.add(blob.at(), release)
	}
	return missing, err
}

// isMissing reports whether the process is the one to copy a blob.
func (i *serving) isMissing(ctx context.Context, blob listed) (bool, error) {
	if i.sharesPut(blob) {
		return false, nil
	}
	if a := i.lookedAhead(blob); a != nil {
		if err := until(ctx, a.looked); err != nil {
			return false, err
		}
		if a.failed != nil {
			return false, a.failed
		}
	}
	if i.claims.has(blob.at()) {
		return true, nil
	}
	return i.claim(ctx, blob)
}

// open requests a blob of the source, or waits for what was requested ahead.
func (i *serving) open(ctx context.Context, blob listed) (Blob, error) {
	a := i.lookedAhead(blob)
	if a == nil {
		return blob.of.Open(ctx, blob.Descriptor)
	}
	if err := until(ctx, a.looked); err != nil {
		return nil, err
	}
	if !a.comes {
		return blob.of.Open(ctx, blob.Descriptor)
	}
	if err := until(ctx, a.came); err != nil {
		return nil, err
	}
	return kept{bytes.NewReader(a.content)}, a.err
}

// lookedAhead returns the look ahead for a blob; nil if there is none.
func (i *serving) lookedAhead(blob listed) *ahead {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ahead[blob.Digest.String()]
}

// until waits until a channel is closed.
func until(ctx context.Context, closed <-chan struct{}) error {
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kept is a Blob in memory.
type kept struct{ *bytes.Reader }

// Close implements io.Closer.
func (kept) Close() error { return nil }
