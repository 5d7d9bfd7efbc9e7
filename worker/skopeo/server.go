package skopeo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Image is an image that CopyImage copies. CopyImage returns the errors of the functions.
type Image struct {
	Source, Destination reference.Repository
	Manifest            registry.Manifest
	// Open requests a blob of the source.
	Open func(ctx context.Context, blob registry.Descriptor) (Blob, error)
	// Claim looks for a blob at the destination. If release is nil, the destination has it.
	// Otherwise the process copies it, and others that need it wait until release is called.
	Claim func(ctx context.Context, blob registry.Descriptor) (release func(), err error)
	// Put sends a small blob to the destination, which stores it.
	Put func(ctx context.Context, blob registry.Descriptor, content []byte) error
	// Upload sends the content of a blob to the destination. The size is negative if unknown.
	Upload func(ctx context.Context, content io.Reader, size int64) (Upload, error)
}

// Blob is the content of a blob of the source.
type Blob interface {
	io.ReadCloser
	// Size returns the size in bytes, negative if unknown.
	Size() int64
}

// Upload is a blob that was sent. End makes the destination store it.
type Upload interface {
	End(ctx context.Context, digest reference.Digest) error
}

const (
	// user is the user that the server accepts. The password is the secret.
	user = "skopeo"

	// headerTimeout is how long a client may take to send the header of a request.
	headerTimeout = time.Minute
)

// server is the registry to which skopeo sends its requests, by HTTP over loopback. It listens while
// images are being copied. Each request needs the secret of one image, which only the process that
// copies it has, and can only read that image and write it to its destination.
type server struct {
	mu      sync.Mutex
	open    map[string]*serving // by secret
	http    *http.Server
	address string
}

// serving is an image that a process is copying.
type serving struct {
	Image
	ctx    context.Context // of the copy
	blobs  map[string]registry.Descriptor
	secret string
	host   string

	waiting atomic.Int64 // requests that wait for the source or the destination

	ahead  map[string]*ahead // by digest
	claims claims

	mu      sync.Mutex
	failed  error       // the first error of either side
	stop    func(error) // ends the process
	uploads map[string]Upload
	begun   int  // number of uploads so far
	put     bool // the process has put the manifest
}

// serve serves the image until end is called. The error wraps registry.ErrBadManifest if the manifest
// is not that of an image.
func (s *server) serve(ctx context.Context, image Image) (_ *serving, end func(), err error) {
	blobs, err := image.Manifest.Blobs()
	if err != nil {
		return nil, nil, &registry.Error{Op: registry.OpGet, Repository: image.Source, Reference: image.Manifest.Digest, Err: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	i := &serving{
		Image: image, ctx: ctx, secret: rand.Text(), stop: func(error) {},
		blobs: make(map[string]registry.Descriptor, len(blobs)), uploads: map[string]Upload{}, ahead: map[string]*ahead{},
	}
	for _, blob := range blobs {
		i.blobs[blob.Digest.String()] = blob
	}
	redact.AddRecentLogin(user, i.secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		if err := s.listen(); err != nil {
			cancel()
			return nil, nil, fmt.Errorf("listening for skopeo: %w", err)
		}
	}
	s.open[i.secret], i.host = i, s.address
	i.lookAhead(blobs)
	return i, func() { cancel(); s.end(i) }, nil
}

func (s *server) listen() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.open, s.address = make(map[string]*serving), listener.Addr().String()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: headerTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	go func(served *http.Server) { _ = served.Serve(listener) }(s.http)
	return nil
}

// end stops serving an image, and stops listening if it was the last one.
func (s *server) end(i *serving) {
	i.claims.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, i.secret)
	if len(s.open) == 0 {
		_ = s.http.Close()
		s.http = nil
	}
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	name, secret, _ := request.BasicAuth()
	s.mu.Lock()
	i := s.open[secret]
	s.mu.Unlock()
	if i == nil || name != user {
		w.Header().Set("WWW-Authenticate", `Basic realm="skopeo-worker"`)
		http.Error(w, "wrong user or secret", http.StatusUnauthorized)
		return
	}
	i.answer(w, request)
}

// during runs the requests to either side that answer a request of the process. If one fails, during
// fails the copy, because skopeo might retry, and returns false.
func (i *serving) during(request *http.Request, run func(ctx context.Context) error) bool {
	ctx, end := context.WithCancel(i.ctx)
	defer end()
	defer context.AfterFunc(request.Context(), end)() // if the process gives up the request
	err := run(ctx)
	if err == nil {
		return true
	}
	if request.Context().Err() == nil && !errors.Is(err, errGone) {
		i.fail(err)
	}
	return false
}

// wait runs a function for which the process waits.
func (i *serving) wait(run func() error) error {
	i.waiting.Add(1)
	defer i.waiting.Add(-1)
	return run()
}

// waits reports whether the process waits for the source or the destination.
func (i *serving) waits() bool { return i.waiting.Load() > 0 }

// onFailure sets the function that ends the process when a side fails. unset removes it.
func (i *serving) onFailure(stop func(error)) (unset func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stop = stop
	return func() { i.onFailure(func(error) {}) }
}

// fail notes the first error of either side, and ends the process.
func (i *serving) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failed == nil {
		i.failed = err
		i.stop(err)
	}
}

// failure returns the first error of either side.
func (i *serving) failure() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failed
}
