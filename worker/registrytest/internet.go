package registrytest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
)

// The token services of the registries an Internet has.
const (
	quayRealm = "https://quay.io/v2/auth"
	hubRealm  = "https://auth.docker.io/token"
)

// Names of the registries an Internet has.
var (
	quayHosts = []string{"quay.io"}
	hubHosts  = []string{"registry-1.docker.io", "index.docker.io", "auth.docker.io", "hub.docker.com"}
)

// Internet is quay.io and Docker Hub under their real names and over TLS, for
// those who use its transport.
type Internet struct {
	Quay      *Registry
	Hub       *Registry       // registry, token service and hub.docker.com
	CAFile    string          // of the authority that signed their certificates
	Transport *http.Transport // reaches them by name; other names than theirs and loopback are unknown
}

// NewInternet starts both with their bulk listings and token services, which
// the options can replace.
func NewInternet(t testing.TB, quay, hub []Option) *Internet {
	t.Helper()
	authority, err := newAuthority(slices.Concat(quayHosts, hubHosts))
	if err != nil {
		t.Fatalf("make a certificate authority: %v", err)
	}
	shared := func(s *settings) { s.authority = authority }
	all := &Internet{
		Quay: New(t, append([]Option{
			shared, WithQuayAPI(BulkAPI{}), WithTokenAuth(TokenAuth{Anonymous: true, Realm: quayRealm}),
		}, quay...)...),
		Hub: New(t, append([]Option{
			shared, WithHubAPI(BulkAPI{}), WithTokenAuth(TokenAuth{Anonymous: true, Realm: hubRealm}),
		}, hub...)...),
		CAFile: filepath.Join(t.TempDir(), "ca.crt"),
	}
	if err := all.Quay.WriteCA(all.CAFile); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.pem)
	all.Transport = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext:     all.dial,
	}
	t.Cleanup(all.Transport.CloseIdleConnections)
	return all
}

// dial refuses every name it does not know: tests do not leave the machine.
func (i *Internet) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(quayHosts, host):
		address = i.Quay.Host()
	case slices.Contains(hubHosts, host):
		address = i.Hub.Host()
	case net.ParseIP(host) == nil || !net.ParseIP(host).IsLoopback():
		return nil, fmt.Errorf("dial %s: the test's internet does not have it", address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}
