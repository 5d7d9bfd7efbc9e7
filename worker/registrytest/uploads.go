package registrytest

import (
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

// movingUploads gives uploads a new location in each answer: a number goes before the name of
// the upload in the path.
type movingUploads struct {
	mu   sync.Mutex
	last map[string]int // number of the last location, by the name of the upload
}

// follow returns a request to the upload's own location, and a writer of the answer with the next
// one. A request to an earlier location goes to an upload that does not exist.
func (m *movingUploads) follow(w http.ResponseWriter, req *http.Request) (http.ResponseWriter, *http.Request) {
	folder, name := path.Split(req.URL.Path)
	if !strings.HasSuffix(folder, "/blobs/uploads/") {
		return w, req
	}
	if name != "" {
		number, upload, _ := strings.Cut(name, ".")
		m.mu.Lock()
		if number != strconv.Itoa(m.last[upload]) {
			upload = "00000000-0000-4000-8000-000000000000"
		}
		m.mu.Unlock()
		req = req.Clone(req.Context())
		req.URL.Path = folder + upload
	}
	return &movingWriter{w, m}, req
}

type movingWriter struct {
	http.ResponseWriter
	moving *movingUploads
}

// Unwrap lets http.ResponseController flush and hijack the connection.
func (w *movingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *movingWriter) WriteHeader(status int) {
	if location := w.Header().Get("Location"); strings.Contains(location, "/blobs/uploads/") {
		target, query, _ := strings.Cut(location, "?")
		folder, upload := path.Split(target)
		w.moving.mu.Lock()
		w.moving.last[upload]++
		w.Header().Set("Location", fmt.Sprintf("%s%d.%s?%s", folder, w.moving.last[upload], upload, query))
		w.moving.mu.Unlock()
	}
	w.ResponseWriter.WriteHeader(status)
}
