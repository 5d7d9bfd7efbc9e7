package registrytest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"time"
)

// transport waits for answers of the registries.
type transport struct {
	registries        []*Registry
	hurry             time.Duration
	patient, hurrying http.Transport
}

// NewTransport returns a transport for requests to the registries, with TLS or without. While a
// registry has a fault that hangs, the transport limits its waits, so that the test continues.
// Otherwise it waits for any time, because answers may take long on a busy machine, and requests
// must not be repeated.
func NewTransport(hurry time.Duration, registries ...*Registry) http.RoundTripper {
	any := &tls.Config{InsecureSkipVerify: true}
	return &transport{
		registries: registries, hurry: hurry,
		patient:  http.Transport{TLSClientConfig: any.Clone(), ForceAttemptHTTP2: true},
		hurrying: http.Transport{TLSClientConfig: any, ForceAttemptHTTP2: true, ResponseHeaderTimeout: hurry},
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if slices.ContainsFunc(t.registries, (*Registry).hangs) {
		ctx, cancel := context.WithCancel(request.Context())
		response, err := t.hurrying.RoundTrip(request.WithContext(ctx))
		if err != nil {
			cancel()
			return nil, err
		}
		response.Body = &hurried{response.Body, t.hurry, cancel}
		return response, nil
	}
	return t.patient.RoundTrip(request)
}

// hangs reports whether a fault is injected that hangs.
func (r *Registry) hangs() bool {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	return slices.ContainsFunc(r.faults.injected, func(s *struck) bool { return s.fault.Hang || s.fault.Drip != nil })
}

// hurried is a body that fails if no bytes come for too long.
type hurried struct {
	io.ReadCloser
	hurry  time.Duration
	cancel context.CancelFunc
}

// Read implements io.Reader.
func (h *hurried) Read(p []byte) (int, error) {
	timer := time.AfterFunc(h.hurry, h.cancel)
	n, err := h.ReadCloser.Read(p)
	if !timer.Stop() && err != nil && !errors.Is(err, io.EOF) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// Close implements io.Closer.
func (h *hurried) Close() error {
	defer h.cancel()
	return h.ReadCloser.Close()
}
