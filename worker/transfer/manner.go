package transfer

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/worker/registry"
)

// small is the size up to which a blob is sent with the request that ends its upload, which
// saves a request. A larger one is sent before, so that it is not lost if that request fails.
const small = 4 << 20

// pieceSizes are tried, the largest first, if a destination does not take a request because
// it is too large. Cloudflare takes 100 MB, and nginx 1 MiB by default.
var pieceSizes = []int64{64 << 20, 8 << 20, 1 << 20}

// noBody are the answers of destinations that do not take a part of a blob with the request that
// ends its upload.
var noBody = []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented}

// manner is how a destination takes large blobs. The zero value is that of docker push: the
// upload is begun, gets the whole blob in a PATCH, and is ended.
type manner struct {
	inEnd bool  // the request that ends the upload has the blob; PATCH is optional for registries
	apart bool  // that request never has a part of the blob
	piece int64 // the size of each of several PATCHes; 0: there is one
}

// ends reports whether what is left of a blob is sent with the request that ends the upload.
// A negative size is unknown.
func (m manner) ends(left int64) bool {
	return m.inEnd || left == 0 || !m.apart && 0 < left && left <= small && (m.piece == 0 || left <= m.piece)
}

// part returns what the next PATCH sends of the body, and its size.
func (m manner) part(body io.Reader, left int64) (io.Reader, int64) {
	switch {
	case m.piece == 0, 0 <= left && left <= m.piece:
		return body, left
	case left < 0:
		return io.LimitReader(body, m.piece), -1
	}
	return io.LimitReader(body, m.piece), m.piece
}

// after returns the manner to try after an error of a request with a body of so many bytes.
// It is false if the error is about something else, or if there is no other manner.
func (m manner) after(err error, sent, minPiece int64) (manner, bool) {
	failed := (*registry.Error)(nil)
	if !errors.As(err, &failed) || failed.Op != registry.OpPut || m.inEnd {
		return manner{}, false
	}
	if failed.Status == http.StatusRequestEntityTooLarge {
		for _, size := range pieceSizes {
			if size = max(size, minPiece); (sent < 0 || size < sent) && (m.piece == 0 || size < m.piece) {
				return manner{piece: size, apart: m.apart}, true
			}
		}
		return manner{}, false
	}
	if sent != 0 && m.ends(sent) {
		return manner{piece: m.piece, apart: true}, slices.Contains(noBody, failed.Status)
	}
	switch failed.Status {
	case http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		return manner{inEnd: true}, m.piece == 0
	}
	return manner{}, false
}

// manners remembers how destinations take large blobs.
type manners struct {
	now func() time.Time

	mu    sync.Mutex
	known map[string]knownManner // by registry
}

type knownManner struct {
	manner
	since time.Time
}

func newManners() *manners {
	return &manners{now: time.Now, known: make(map[string]knownManner)}
}

// note notes a manner that has worked.
func (m *manners) note(registry string, worked manner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known[registry].manner != worked {
		m.known[registry] = knownManner{worked, m.now()}
	}
}

// of returns the manner that is tried first: for as long as offeredFor the one that has
// worked.
func (m *manners) of(registry string) manner {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.known[registry]; m.now().Sub(k.since) < offeredFor {
		return k.manner
	}
	return manner{}
}
