package skopeo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// claimed returns claims, what adds one, and what requires that these digests are claimed and no others.
// It is called in a synctest bubble, whose clock is fake.
func claimed(t *testing.T) (c *claims, add func(digest string), holds func(digests ...string)) {
	c = &claims{}
	all := map[string]bool{}
	add = func(digest string) {
		all[digest] = true
		c.add(place{digest: digest}, func() { delete(all, digest) })
	}
	holds = func(digests ...string) {
		t.Helper()
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		require.ElementsMatch(t, digests, slices.Collect(maps.Keys(all)))
	}
	return c, add, holds
}

// TestClaimsOfAnIdleProcess: a process keeps others waiting while it requests or sends something, and
// patience longer.
func TestClaimsOfAnIdleProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, add, holds := claimed(t)
		add("a")
		time.Sleep(patience - 1)
		holds("a")
		get := c.work()
		time.Sleep(2 * patience)
		put := c.work()
		get()
		time.Sleep(2 * patience)
		add("b")
		holds("a", "b")
		put()
		c.release(place{digest: "b"})
		c.release(place{digest: "b"})
		time.Sleep(patience - 1)
		holds("a")
		require.True(t, c.has(place{digest: "a"}))
		time.Sleep(time.Nanosecond)
		holds()
		require.False(t, c.has(place{digest: "a"}))
		add("a")
		holds("a")
		c.end()
		holds()
		add("c")
		holds()
	})
}

// TestClaimsOfAnImageToCome: a process that waits for another one does not keep others waiting for what
// it has claimed for its next images.
func TestClaimsOfAnImageToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, add, holds := claimed(t)
		add("a")
		c.look()() // answered at once
		time.Sleep(2 * brief)
		end := c.look()
		time.Sleep(brief - 1)
		holds("a")
		put := c.work()
		time.Sleep(2 * brief)
		holds("a")
		put()
		time.Sleep(brief)
		holds()
		add("b")
		time.Sleep(brief)
		holds()
		end()
		add("c")
		time.Sleep(2 * brief)
		holds("c")
		c.end()
	})
}

// slow is a blob that takes long.
type slow struct{ io.Reader }

func (s slow) Read(p []byte) (int, error) {
	time.Sleep(2 * patience)
	return s.Reader.Read(p)
}
func (slow) Size() int64  { return -1 }
func (slow) Close() error { return nil }

// slowUpload takes long to be stored.
type slowUpload struct{}

func (slowUpload) End(context.Context, reference.Digest) error {
	time.Sleep(2 * patience)
	return nil
}

// TestClaimUntilTheUploadEnds: a process has a blob for itself from the look-up to the end of the
// upload, however long that takes. It looks for the blob once more before it sends it.
func TestClaimUntilTheUploadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := strings.Repeat("layer", maxKept)
		blob := registry.Descriptor{Digest: reference.DigestOf([]byte(content)), Size: int64(len(content))}
		var claimed atomic.Bool
		asked := 0
		i, of := newServing(false), &served{ctx: t.Context()}
		i.current, i.blobs[of.at(blob.Digest.String())] = of, blob
		of.Open = func(context.Context, registry.Descriptor) (Blob, error) { return slow{strings.NewReader(content)}, nil }
		of.Claim = func(context.Context, registry.Descriptor) (func(), error) {
			asked++
			claimed.Store(true)
			return func() { claimed.Store(false) }, nil
		}
		of.Upload = func(_ context.Context, content io.Reader, _ int64) (Upload, error) {
			_, err := io.Copy(io.Discard, slow{content})
			return slowUpload{}, err
		}
		ask := func(method, path string, body io.Reader) *httptest.ResponseRecorder {
			recorder := httptest.NewRecorder()
			i.answer(recorder, httptest.NewRequestWithContext(t.Context(), method, path, body))
			return recorder
		}
		at := "/v2/destination/blobs/" + blob.Digest.String()
		require.Equal(t, http.StatusNotFound, ask(http.MethodHead, at, nil).Code)
		require.Equal(t, content, ask(http.MethodGet, "/v2/source/blobs/"+blob.Digest.String(), nil).Body.String())
		require.True(t, claimed.Load())
		require.Equal(t, http.StatusNotFound, ask(http.MethodHead, at, nil).Code)
		location := ask(http.MethodPost, "/v2/destination/blobs/uploads/", nil).Header().Get("Location")
		require.Equal(t, http.StatusAccepted, ask(http.MethodPatch, location, strings.NewReader(content)).Code)
		require.True(t, claimed.Load())
		end := make(chan int)
		go func() { end <- ask(http.MethodPut, location+"?digest="+blob.Digest.String(), nil).Code }()
		time.Sleep(3 * patience / 2)
		require.True(t, claimed.Load())
		require.Equal(t, http.StatusCreated, <-end)
		require.False(t, claimed.Load())
		require.Equal(t, 1, asked)
	})
}

// TestClaimsOfAProcessThatEnds are released at once, those of small layers, too, which are claimed
// before the process looks for them. No more than it begins with are claimed.
func TestClaimsOfAProcessThatEnds(t *testing.T) {
	var layers []string
	for n := range layersAhead + 2 {
		layers = append(layers, fmt.Sprintf(`{"mediaType":%q,"size":100,"digest":%q}`, types.OCILayer, reference.DigestOf([]byte{byte(n)})))
	}
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":100,"digest":%q},"layers":[%s]}`,
		types.OCIManifestSchema1, types.OCIConfigJSON, reference.DigestOf(nil), strings.Join(layers, ","))
	var claimed atomic.Int64
	image := Image{
		Manifest: registry.Manifest{MediaType: string(types.OCIManifestSchema1), Raw: []byte(raw), Digest: reference.DigestOf([]byte(raw))},
		Open:     func(context.Context, registry.Descriptor) (Blob, error) { return kept{bytes.NewReader(nil)}, nil },
		Claim: func(context.Context, registry.Descriptor) (func(), error) {
			claimed.Add(1)
			return func() { claimed.Add(-1) }, nil
		},
	}
	synctest.Test(t, func(t *testing.T) {
		var s server
		s.http, s.open = &http.Server{}, map[string]*serving{} // listens elsewhere
		i := newServing(false)
		_, err := i.add(t.Context(), image)
		require.NoError(t, err)
		end, err := s.serve(i)
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, layersAhead+1, claimed.Load())
		end()
		require.Zero(t, claimed.Load())
	})
}
