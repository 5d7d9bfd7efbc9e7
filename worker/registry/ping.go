package registry

import (
	"net/http"
	"sync"
	"time"
)

// pingTTL is how long a registry's way of authenticating is believed.
const pingTTL = time.Hour

// pings answers go-containerregistry's ping, GET /v2/, from memory: it asks before
// each token, so for every repository, and a registry's answer is always the same.
type pings struct {
	inner http.RoundTripper
	now   func() time.Time

	mu   sync.Mutex
	kept map[string]pong // by scheme and host
}

type pong struct {
	status int
	header http.Header
	until  time.Time
}

func (p *pings) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodGet || request.URL.Path != "/v2/" {
		return p.inner.RoundTrip(request)
	}
	key := request.URL.Scheme + "://" + request.URL.Host
	p.mu.Lock()
	known, ok := p.kept[key]
	p.mu.Unlock()
	if ok && p.now().Before(known.until) {
		return &http.Response{
			Status: http.StatusText(known.status), StatusCode: known.status,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: known.header.Clone(), Body: http.NoBody, Request: request,
		}, nil
	}
	response, err := p.inner.RoundTrip(request)
	if err == nil && (response.StatusCode == http.StatusOK || response.StatusCode == http.StatusUnauthorized) {
		p.mu.Lock()
		p.kept[key] = pong{status: response.StatusCode, header: response.Header.Clone(), until: p.now().Add(pingTTL)}
		p.mu.Unlock()
	}
	return response, err
}
