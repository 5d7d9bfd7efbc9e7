package registrytest

import (
	"net/http"
	"slices"
	"time"
)

// transport waits for answers of the registries.
type transport struct {
	registries        []*Registry
	patient, hurrying http.Transport
}

// NewTransport returns a transport for requests to the registries. While one of them has a fault
// that hangs, it waits only so long for an answer, so that the test goes on. Otherwise it waits
// for each: on a busy machine an answer may take long, and no request is repeated for that.
func NewTransport(hurry time.Duration, registries ...*Registry) http.RoundTripper {
	return &transport{registries: registries, hurrying: http.Transport{ResponseHeaderTimeout: hurry}}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if slices.ContainsFunc(t.registries, (*Registry).hangs) {
		return t.hurrying.RoundTrip(request)
	}
	return t.patient.RoundTrip(request)
}

// hangs reports whether a fault is injected that hangs.
func (r *Registry) hangs() bool {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	return slices.ContainsFunc(r.faults.injected, func(s *struck) bool { return s.fault.Hang })
}
