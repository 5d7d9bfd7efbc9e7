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

// noBody are the answers of destinations that accept no content in the request that ends an upload.
var noBody = []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented}

// manner is how large blobs are sent to a destination. The zero value is how docker push does it: a
// POST begins the upload, a PATCH has the whole blob, and a PUT ends the upload.
type manner struct {
	inEnd bool  // the PUT has the blob: registries need not support PATCH
	apart bool  // the PUT never has content
	piece int64 // the size of each of several PATCHes; 0 if there is one
}

// ends reports whether the rest of a blob is sent in the request that ends the upload. Its size is
// negative if unknown.
func (m manner) ends(left, small int64) bool {
	return m.inEnd || left == 0 || !m.apart && 0 < left && left <= small && (m.piece == 0 || left <= m.piece)
}

// part returns the content of the next PATCH, and its size.
func (m manner) part(body io.Reader, left int64) (io.Reader, int64) {
	switch {
	case m.piece == 0, 0 <= left && left <= m.piece:
		return body, left
	case left < 0:
		return io.LimitReader(body, m.piece), -1
	}
	return io.LimitReader(body, m.piece), m.piece
}

// after returns the manner to try after an error of a request with sent bytes of content. It returns
// false if the error has another cause, or if no other manner is left.
func (m manner) after(err error, sent, minPiece int64, by sizes) (manner, bool) {
	failed := (*registry.Error)(nil)
	if !errors.As(err, &failed) || failed.Op != registry.OpPut || m.inEnd {
		return manner{}, false
	}
	if failed.Status == http.StatusRequestEntityTooLarge {
		for _, size := range by.pieces {
			if size = max(size, minPiece); (sent < 0 || size < sent) && (m.piece == 0 || size < m.piece) {
				return manner{piece: size, apart: m.apart}, true
			}
		}
		return manner{}, false
	}
	if sent != 0 && m.ends(sent, by.small) {
		return manner{piece: m.piece, apart: true}, slices.Contains(noBody, failed.Status)
	}
	switch failed.Status {
	case http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		return manner{inEnd: true}, m.piece == 0
	}
	return manner{}, false
}

// manners remembers which manner works with which destination.
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

// note records a manner that has worked.
func (m *manners) note(registry string, worked manner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known[registry].manner != worked {
		m.known[registry] = knownManner{worked, m.now()}
	}
}

// of returns the manner to try first: the one that has worked within offeredFor.
func (m *manners) of(registry string) manner {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.known[registry]; m.now().Sub(k.since) < offeredFor {
		return k.manner
	}
	return manner{}
}
