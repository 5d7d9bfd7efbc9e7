package registrytest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// serveBlob lets distribution answer a GET of a blob as if it were a HEAD, and then sends the content
// itself, as distribution does (blobserver.go). distribution reads each blob through a new buffer of
// 4 MiB (filereader.go). With the race detector, these buffers take more time than all else in a test.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request) {
	head := req.Clone(req.Context())
	head.Method = http.MethodHead
	head.Header.Del("Range")
	found := &foundWriter{ResponseWriter: w}
	r.app.ServeHTTP(found, head)
	if !found.found {
		return
	}
	// A blob with a digest of another algorithm is stored under its SHA-256 digest, which the answer states.
	content, err := r.content(req.Context(), digest.Digest(w.Header().Get("Docker-Content-Digest")))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer content.Close()
	http.ServeContent(w, req, "", time.Time{}, content)
}

// foundWriter passes all answers on, except that the blob was found.
type foundWriter struct {
	http.ResponseWriter
	found bool
}

func (w *foundWriter) WriteHeader(status int) {
	if w.found = status == http.StatusOK; !w.found {
		w.ResponseWriter.WriteHeader(status)
	}
}

// content opens a blob in the storage.
func (r *Registry) content(ctx context.Context, dgst digest.Digest) (io.ReadSeekCloser, error) {
	path := "/docker/registry/v2/blobs/" + dgst.Algorithm().String() + "/" + dgst.Encoded()[:2] + "/" + dgst.Encoded() + "/data"
	opened, err := r.driver.Reader(ctx, path, 0)
	if err != nil {
		return nil, err
	}
	if file, ok := opened.(io.ReadSeekCloser); ok {
		return file, nil
	}
	defer opened.Close()
	all, err := io.ReadAll(opened)
	return inMemory{bytes.NewReader(all)}, err
}

type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// steady is a storage driver that does not store again what it has. The driver in memory lets a blob be
// read while a push of the same blob overwrites it, which is a data race.
type steady struct {
	driver.StorageDriver
	putting *sync.Mutex
}

// PutContent implements driver.StorageDriver.
func (s steady) PutContent(ctx context.Context, path string, content []byte) error {
	s.putting.Lock()
	defer s.putting.Unlock()
	if have, err := s.GetContent(ctx, path); err == nil && bytes.Equal(have, content) {
		return nil
	}
	return s.StorageDriver.PutContent(ctx, path, content)
}
