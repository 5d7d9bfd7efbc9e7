package list_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
)

// origin serves a redirect as https://example.com. It returns a fetcher that connects there.
func origin(t *testing.T, location *string) list.Fetcher {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { redirect(*location)(w, r) }))
	t.Cleanup(server.Close)
	f := impatient()
	f.Transport = server.Client().Transport.(*http.Transport).Clone()
	f.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.Replace(address, "example.com:443", server.Listener.Addr().String(), 1))
	}
	return f
}

// inside counts the requests to a server on this machine, with or without TLS.
func inside(t *testing.T, serve func(http.Handler) *httptest.Server) (port string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	server := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { requests.Add(1); ok(w, r) }))
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	return port, requests
}

func TestRedirectsThatAreRefused(t *testing.T) {
	plain, plainRequests := inside(t, httptest.NewServer)
	secure, secureRequests := inside(t, httptest.NewTLSServer)
	var location string
	f := origin(t, &location)
	for to, why := range map[string]string{
		"http://127.0.0.1:" + plain:            "which is not https",
		"http://lists.example":                 "which is not https",
		"https://127.0.0.1:" + secure:          "which is a loopback address (127.0.0.1)",
		"https://localhost:" + secure:          "which is a loopback address",
		"https://LocalHost:" + secure:          "which is a loopback address",
		"https://127.1.2.3:" + secure:          "which is a loopback address (127.1.2.3)",
		"https://[::1]:" + secure:              "which is a loopback address (::1)",
		"https://0.0.0.0:" + secure:            "which is a loopback address (0.0.0.0)",
		"https://[::]:" + secure:               "which is a loopback address (::)",
		"https://[::ffff:127.0.0.1]:" + secure: "which is a loopback address (127.0.0.1)",
		"https://169.254.10.20":                "which is a link-local address (169.254.10.20)",
		"https://[fe80::1%25lo]":               "which is a link-local address (fe80::1)",
		"https://169.254.169.254":              "which is an address of a cloud's metadata (169.254.169.254)",
		"https://[fd00:ec2::254]":              "which is an address of a cloud's metadata (fd00:ec2::254)",
		"https://[::ffff:169.254.169.254]":     "which is an address of a cloud's metadata (169.254.169.254)",
		"https://[64:ff9b::169.254.169.254]":   "which is an address of a cloud's metadata",
	} {
		location = strings.Replace(to, "://", "://bob:s3cret@", 1) + "/list.yml?token=s3cret"
		_, err := f.Fetch(t.Context(), "https://reader:s3cret@example.com/images.yml")
		require.ErrorIs(t, err, list.ErrUnreachable, to)
		message := "the list could not be read: https://example.com/images.yml: redirected to " + to + "/list.yml?xxxxx, " + why
		require.True(t, strings.HasPrefix(err.Error(), message), "%s\n%s", err, message)
		require.True(t, strings.HasSuffix(err.Error(), ": if that is intended, set MIRROR_SOURCE_URL to that URL"), err)
	}
	require.Zero(t, plainRequests.Load())
	require.Zero(t, secureRequests.Load())

	// The suggested URL works.
	data, err := impatient().Fetch(t.Context(), "http://127.0.0.1:"+plain)
	require.NoError(t, err)
	require.Equal(t, body, string(data))
}

// TestRedirectsFromHTTP: a redirect from an http URL may lead anywhere except to addresses that
// only this machine or its cloud can reach.
func TestRedirectsFromHTTP(t *testing.T) {
	port, requests := inside(t, httptest.NewServer)
	var location string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { redirect(location)(w, r) }))
	t.Cleanup(server.Close)
	named := impatient()
	named.Transport = &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}}
	for _, test := range []struct {
		fetcher  list.Fetcher
		from, to string
		refused  bool
	}{
		{named, "http://example.com", "http://127.0.0.1:" + port, true},
		{named, "http://example.com", "http://169.254.169.254/latest", true},
		{impatient(), server.URL, "http://127.0.0.1:" + port, false},
		{impatient(), server.URL, "http://localhost:" + port, false},
		{impatient(), server.URL, "http://169.254.169.254/latest", true},
	} {
		location = test.to
		before := requests.Load()
		_, err := test.fetcher.Fetch(t.Context(), test.from)
		if !test.refused {
			require.NoError(t, err, test.to)
			require.Equal(t, before+1, requests.Load())
			continue
		}
		require.ErrorContains(t, err, "redirected to "+test.to+", which is a")
		require.Equal(t, before, requests.Load())
	}
}

// TestRedirectOnItsHost: a server in the network of this machine may redirect to itself.
func TestRedirectOnItsHost(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		switch {
		case user != "reader":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/":
			redirect("/raw")(w, r)
		default:
			ok(w, r)
		}
	}))
	t.Cleanup(server.Close)
	f := impatient()
	f.Transport = server.Client().Transport.(*http.Transport)
	_, err := f.Fetch(t.Context(), strings.Replace(server.URL, "://", "://reader:s3cret@", 1)+"/")
	require.NoError(t, err)
}

// TestRedirectsByProxy: the address to which a proxy connects is unknown, but the host can be
// checked.
func TestRedirectsByProxy(t *testing.T) {
	var location string
	var asked atomic.Pointer[string]
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/images.yml" {
			redirect(location)(w, r)
			return
		}
		address := r.URL.String()
		asked.Store(&address)
		ok(w, r)
	}))
	t.Cleanup(proxy.Close)
	address, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	f := impatient()
	f.Transport = &http.Transport{Proxy: http.ProxyURL(address)}
	f = f.WithLookup(func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "inside.example":
			return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1")}, nil
		case "site.example":
			return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
		}
		return nil, errors.New("no such host")
	})
	for _, to := range []string{
		"http://127.0.0.1:1/x", "http://[::1]/x", "http://localhost/x", "http://LocalHost./x", "http://a.localhost/x", "http://inside.example/x",
		"http://169.254.169.254/x", "http://metadata.google.internal/x", "http://Metadata.Google.Internal./x", "http://metadata/x",
		"http://2130706433/x", "http://0x7f.1/x", "http://127.1/x", "http://127\u30020.0.1/x",
	} {
		location = to
		_, err := f.Fetch(t.Context(), "http://list.example/images.yml")
		require.ErrorContains(t, err, "redirected to ", to)
		require.ErrorContains(t, err, "/x, which is a", to)
		require.Nil(t, asked.Load(), "%s: %v", to, asked.Load())
	}
	for _, to := range []string{"http://unknown.example/x", "http://site.example/x"} {
		location = to
		_, err := f.Fetch(t.Context(), "http://list.example/images.yml")
		require.NoError(t, err)
		require.Equal(t, to, *asked.Load())
	}
}

func TestScopes(t *testing.T) {
	for scope, addresses := range map[string]string{
		"a loopback address":   "127.0.0.1 127.255.255.254 ::1 0.0.0.0 0.1.2.3 :: ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::7f00:1 2002:7f00:1::",
		"a link-local address": "169.254.0.1 fe80::1 fe80::1%eth0 ::ffff:169.254.0.1 2002:a9fe:1::",
		"an address of a cloud's metadata": "169.254.169.254 169.254.170.2 169.254.170.23 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 168.63.129.16 " +
			"100.100.100.200 192.0.0.192 fe80::a9fe:a9fe 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::",
		"": "10.0.0.1 192.168.1.1 172.16.0.1 100.64.0.1 8.8.8.8 fd12:3456::1 2606:4700::1111 64:ff9b::808:808 2002:808:808::",
	} {
		for address := range strings.FieldsSeq(addresses) {
			require.Equal(t, scope, list.ScopeOf(netip.MustParseAddr(address)), address)
		}
	}
}
