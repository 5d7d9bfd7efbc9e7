package registrytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// The token services of an Internet's registries.
const (
	quayRealm = "https://quay.io/v2/auth"
	hubRealm  = "https://auth.docker.io/token"
)

// Names of an Internet's registries.
var (
	quayHosts = []string{"quay.io"}
	hubHosts  = []string{"registry-1.docker.io", "index.docker.io", "auth.docker.io", "hub.docker.com"}
)

// Internet is quay.io and Docker Hub under their real names and over TLS, for clients that use
// its transport.
type Internet struct {
	Quay      *Registry
	Hub       *Registry       // registry, token service and hub.docker.com
	CAFile    string          // of the authority that signed their certificates
	Transport *http.Transport // connects to them by name, and to loopback
}

// NewInternet starts both with their bulk listings and token services. The options can replace
// these.
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

// dial refuses unknown names: tests use no network.
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

// certificateLife is how long the certificates are valid: longer than any test.
const certificateLife = 24 * time.Hour

// clockSkew predates certificates for machines with other clocks.
const clockSkew = time.Hour

// authority is a certificate authority with the only certificate it signed.
type authority struct {
	pem    []byte
	server tls.Certificate
	client tls.Certificate
}

func newAuthority(hosts []string) (*authority, error) {
	ca := template(1, "registrytest authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	sign := func(leaf *x509.Certificate, usage x509.ExtKeyUsage) (tls.Certificate, error) {
		leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return tls.Certificate{}, err
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
		return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, err
	}
	leaf := template(2, "registrytest")
	for _, host := range append([]string{"127.0.0.1", "localhost"}, hosts...) {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
	made := &authority{pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})}
	if made.server, err = sign(leaf, x509.ExtKeyUsageServerAuth); err != nil {
		return nil, err
	}
	made.client, err = sign(template(3, "registrytest client"), x509.ExtKeyUsageClientAuth)
	return made, err
}

// WriteClient writes a certificate that WithClientCertificates accepts, and its key.
func (r *Registry) WriteClient(certificate, key string) error {
	der, err := x509.MarshalPKCS8PrivateKey(r.tls.client.PrivateKey)
	if err != nil {
		return err
	}
	for path, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: r.tls.client.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("write a certificate for clients of %s: %w", r.Host(), err)
		}
	}
	return nil
}

func template(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(certificateLife),
	}
}

func (a *authority) serverConfig(clients bool) *tls.Config {
	config := &tls.Config{Certificates: []tls.Certificate{a.server}, MinVersion: tls.VersionTLS12}
	if clients {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(a.pem)
	}
	return config
}
