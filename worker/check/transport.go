package check

import (
	"errors"
	"net/http"
	"strings"
)

// ErrPull is returned for a question that only a pull could answer: for the digests of a registry
// that answers HEAD without them, or whether a tag has vanished that HEAD denies.
var ErrPull = errors.New("the digest is known only after a pull, and a check pulls nothing")

// WithoutPulls returns a transport that refuses to get manifests, which
// registries count as pulls.
func WithoutPulls(inner http.RoundTripper) http.RoundTripper { return withoutPulls{inner} }

type withoutPulls struct{ inner http.RoundTripper }

func (t withoutPulls) RoundTrip(request *http.Request) (*http.Response, error) {
	parts := strings.Split(request.URL.Path, "/")
	if n := len(parts); request.Method == http.MethodGet && n >= 2 && parts[n-2] == "manifests" {
		return nil, ErrPull
	}
	return t.inner.RoundTrip(request)
}
