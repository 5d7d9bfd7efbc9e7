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

// Image is an image that is copied with requests by this process. The copy returns the errors of the
// functions.
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

// serving is the images that a process copies.
type serving struct {
	together bool // the process asks which images it is to copy
	secret   string
	host     string

	waiting atomic.Int64 // requests that wait for the source or the destination

	claims claims

	mu       sync.Mutex
	complete bool      // no more images can be added
	images   []*served // in the order in which they are copied
	current  *served   // the one that is being copied; nil before the first one
	blobs    map[place]registry.Descriptor
	ahead    map[string]*ahead    // by digest
	failed   error                // the first error of either side
	stop     func(error)          // ends the process
	uploads  map[string]*received // nil before there is content
	puts     []*putting
	begun    int // number of uploads so far
}

// served is an image that a process copies.
type served struct {
	Image
	ctx context.Context // of the copy
	end func()          // ends its requests
	put bool            // the process has put the manifest

	needs   []*putting    // its small blobs that were sent
	settled chan struct{} // closed when failed is set; never for the last image
	failed  error         // of the small blobs
}

// place is a blob that is copied between two repositories.
type place struct {
	source, destination reference.Repository
	digest              string
}

func (s *served) at(digest string) place { return place{s.Source, s.Destination, digest} }

// listed is a blob of an image.
type listed struct {
	registry.Descriptor
	of *served
}

func (l listed) at() place { return l.of.at(l.Digest.String()) }

// newServing returns a serving without images. If not together, it is for one image.
func newServing(together bool) *serving {
	return &serving{
		together: together, secret: rand.Text(), stop: func(error) {},
		blobs: map[place]registry.Descriptor{}, uploads: map[string]*received{}, ahead: map[string]*ahead{},
	}
}

// serve serves images until end is called.
func (s *server) serve(i *serving) (end func(), err error) {
	redact.AddRecentLogin(user, i.secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		if err := s.listen(); err != nil {
			i.close()
			return nil, fmt.Errorf("listening for skopeo: %w", err)
		}
	}
	s.open[i.secret], i.host = i, s.address
	return func() { s.end(i) }, nil
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

// end stops serving images, and stops listening if no others are served.
func (s *server) end(i *serving) {
	i.close()
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

// close ends the requests for the images, and releases their claims. No more images can be added.
func (i *serving) close() {
	i.mu.Lock()
	i.complete = true
	for _, a := range i.images {
		a.end()
	}
	i.mu.Unlock()
	i.claims.end()
}

// during runs the requests to either side that answer a request of the process, for an image. If one
// fails, during fails the copy, because skopeo might retry, and returns false.
func (i *serving) during(request *http.Request, a *served, run func(ctx context.Context) error) bool {
	ctx, end := context.WithCancel(a.ctx)
	defer end()
	defer context.AfterFunc(request.Context(), end)() // if the process gives up the request
	err := run(ctx)
	if err == nil {
		return true
	}
	if request.Context().Err() == nil && !errors.Is(err, errGone) {
		if a.ctx.Err() != nil {
			err = errLeft // another image may need the blob, too
		}
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

// onFailure sets the function that ends the process when a side fails, or has failed. unset removes it.
func (i *serving) onFailure(stop func(error)) (unset func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stop = stop; i.failed != nil {
		stop(i.failed)
	}
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

// at returns the image that the process is copying; nil if it has not begun.
func (i *serving) at() *served {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.current
}

// isAlone reports whether the process copies one image.
func (i *serving) isAlone() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.images) == 1
}
