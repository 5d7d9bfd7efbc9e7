package registry

import (
	"encoding/base64"
	"net"
	"net/http"

	"github.com/osism/skopeo-worker/worker/containers"
)

// authorized sends a session's requests. What authenticates them goes to the registry
// itself only, not to where that redirects; and so does the scheme that the registry
// was found to speak, which links of a registry behind a proxy often have wrong.
type authorized struct {
	network http.RoundTripper
	host    string
	scheme  string
	header  string // Authorization; empty: none
}

func (a *authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	if withPort(request.URL.Host, a.scheme) == withPort(a.host, a.scheme) {
		request = request.Clone(request.Context())
		request.URL.Scheme = a.scheme
		if a.header != "" {
			request.Header.Set("Authorization", a.header)
		}
	}
	return a.network.RoundTrip(request)
}

func basic(known containers.Credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(known.Username+":"+known.Password))
}

// withPort writes out a host's port, so that those of one server are equal.
func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "443"
	if scheme == "http" {
		port = "80"
	}
	return host + ":" + port
}
