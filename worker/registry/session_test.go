package registry_test

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var (
	tokenRequests = registrytest.Kinds(registrytest.KindToken)
	headRequests  = registrytest.Kinds(registrytest.KindManifestHead)
	pings         = registrytest.Kinds(registrytest.KindPing)
)

// TestExpiredSessions: if a registry refuses expired credentials, in whatever way, the keychain is
// asked again, and the request is repeated.
func TestExpiredSessions(t *testing.T) {
	token := func(status int) registrytest.Option {
		return registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "old", EndedStatus: status})
	}
	for name, test := range map[string]struct {
		options []registrytest.Option
		end     func(r *registrytest.Registry, k *fixed)
	}{
		"401": {[]registrytest.Option{token(0)}, func(r *registrytest.Registry, _ *fixed) { r.ExpireTokens() }},
		"400": {[]registrytest.Option{token(400)}, func(r *registrytest.Registry, _ *fixed) { r.ExpireTokens() }},
		"403": {[]registrytest.Option{token(403)}, func(r *registrytest.Registry, _ *fixed) { r.ExpireTokens() }},
		"token and password": {[]registrytest.Option{token(400)}, func(r *registrytest.Registry, k *fixed) {
			r.ExpireTokens()
			r.SetLogin("bob", "new")
			k.next = "new"
		}},
		"password": {[]registrytest.Option{registrytest.WithBasicAuth("bob", "old")}, func(r *registrytest.Registry, k *fixed) {
			r.SetLogin("bob", "new")
			k.next = "new"
		}},
		"password, answered 403": {[]registrytest.Option{registrytest.WithBasicAuth("bob", "old"), registrytest.WithBasicRefusal(403)},
			func(r *registrytest.Registry, k *fixed) {
				r.SetLogin("bob", "new")
				k.next = "new"
			}},
		"a file that has changed": {[]registrytest.Option{registrytest.WithBasicAuth("bob", "old")}, func(r *registrytest.Registry, k *fixed) {
			r.SetLogin("bob", "new")
			k.set("bob", "new")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, test.options...)
			digest, raw := pushImage(t, r, "1")
			keychain := new(fixed)
			keychain.set("bob", "old")
			c := insecure(r, keychain)
			repository := r.Host() + "/" + repository
			m := registry.Manifest{Raw: raw, Digest: reference.MustDigest(digest), MediaType: "application/vnd.oci.image.manifest.v1+json"}
			for _, ask := range []func() error{
				func() error {
					_, err := c.Head(t.Context(), reference.MustRepository(repository), reference.MustTag("1"))
					return err
				},
				func() error {
					_, err := c.Get(t.Context(), reference.MustRepository(repository), reference.MustTag("1"))
					return err
				},
				func() error { _, err := tags(t.Context(), c, repository); return err },
				func() error {
					return c.Put(t.Context(), reference.MustRepository(repository), reference.MustTag("2"), m)
				},
			} {
				r.SetLogin("bob", "old")
				keychain.set("bob", "old")
				require.NoError(t, ask())
				test.end(r, keychain)
				require.NoError(t, ask())
			}
		})
	}
}

// TestRefusedSessions: if a new session is refused as well, the request is not repeated again, and
// the error names the origin of the credentials.
func TestRefusedSessions(t *testing.T) {
	looks := registrytest.Kinds(registrytest.KindManifestHead, registrytest.KindManifestGet)
	for status, requests := range map[int]int{
		401: 1 + 2 + 4, // one repetition with another session
		403: 1 + 2 + 5 + 5,
	} {
		const want = "the credentials of a test do not allow it"
		r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "old"}))
		pushImage(t, r, "1")
		keychain := new(fixed)
		keychain.set("bob", "old")
		c := insecure(r, keychain)
		repository := reference.MustRepository(r.Host() + "/" + repository)
		mend := r.Inject(registrytest.Fault{Match: looks, Status: status})
		_, err := c.Head(t.Context(), repository, reference.MustTag("1"))
		require.ErrorContains(t, err, want)
		require.Equal(t, 1, r.Count(headRequests), "it was a new session")
		for range 5 {
			_, err = c.Head(t.Context(), repository, reference.MustTag("1"))
			require.ErrorContains(t, err, want)
		}
		require.Equal(t, requests, r.Count(looks))
		require.Equal(t, 2, r.Count(tokenRequests))
		mend()
		_, err = c.Get(t.Context(), repository, reference.MustTag("1"))
		require.NoError(t, err)
	}
}

// TestWrongPassword: the error names the registry, and the file with the password.
func TestWrongPassword(t *testing.T) {
	for name, option := range map[string]registrytest.Option{
		"token": registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "right"}),
		"basic": registrytest.WithBasicAuth("bob", "right"),
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, option)
			pushImage(t, r, "1")
			keychain := &fixed{Credential: containers.Credential{Username: "bob", Password: "wrong", Origin: `entry "x" in /auth.json`}}
			_, err := insecure(r, keychain).Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
			require.ErrorIs(t, err, registry.ErrUnauthorized)
			require.ErrorContains(t, err, `the registry refused the credentials of entry "x" in /auth.json (401)`)
			require.NotContains(t, err.Error(), "the repository does not exist")
			_, err = insecure(r, nil).Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
			require.ErrorContains(t, err, "no credentials were found, or the repository does not exist (401)")
		})
	}
}

// TestRenewal: a token is renewed before it ends, with a margin for waiting requests.
func TestRenewal(t *testing.T) {
	for name, test := range map[string]struct {
		auth         registrytest.TokenAuth
		good, renews time.Duration
	}{
		"as it says":      {registrytest.TokenAuth{Anonymous: true, Expiry: 5 * time.Minute}, 289 * time.Second, 291 * time.Second},
		"short":           {registrytest.TokenAuth{Anonymous: true, Expiry: 4 * time.Second}, 2 * time.Second, 3 * time.Second},
		"it does not say": {registrytest.TokenAuth{Anonymous: true, Expiry: time.Minute, Untold: true}, 49 * time.Second, 51 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var offset atomic.Int64
			start := time.Now()
			clock := func() time.Time { return start.Add(time.Duration(offset.Load())) }
			r := registrytest.New(t, registrytest.WithTokenAuth(test.auth), registrytest.WithClock(clock))
			pushImage(t, r, "1")
			c := registry.NewClient(registry.Options{Insecure: []string{r.Host()}, Clock: clock})
			look := func() {
				t.Helper()
				_, err := c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
				require.NoError(t, err)
			}
			look()
			offset.Store(int64(test.good))
			look()
			require.Equal(t, 1, r.Count(tokenRequests))
			offset.Store(int64(test.renews))
			look()
			require.Equal(t, 2, r.Count(tokenRequests))
			require.Zero(t, r.Count(registrytest.All(headRequests, registrytest.Answered(http.StatusUnauthorized))))
		})
	}
}

// TestIdentityTokens: an identity token is exchanged with OAuth2. If the token server does not
// support that, user and password are sent instead.
func TestIdentityTokens(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2", IdentityToken: "opaque"}))
	pushImage(t, r, "1")
	keychain := &fixed{Credential: containers.Credential{IdentityToken: "opaque"}}
	_, err := insecure(r, keychain).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.NoError(t, err)

	keychain.IdentityToken, keychain.Origin = "revoked", "a test"
	r.Inject(registrytest.Fault{Match: tokenRequests, Status: 400, Body: `{"error":"invalid_grant"}`, Times: 1})
	_, err = insecure(r, keychain).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	require.ErrorContains(t, err, "the registry refused the credentials of a test")
	keychain.IdentityToken = "opaque"
	keychain.Username, keychain.Password = "bob", "hunter2"
	r.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return tokenRequests(r) && r.Method == http.MethodPost }, Status: 404})
	_, err = insecure(r, keychain).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.NoError(t, err)
}

// TestTokenServerAtOtherHost: a token server may have another address in the same network, as that
// of GitLab.
func TestTokenServerAtOtherHost(t *testing.T) {
	server := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true, Realm: server.URL() + "/token"}))
	c := registry.NewClient(registry.Options{Insecure: []string{r.Host(), server.Host()}})
	_, err := c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorIs(t, err, registry.ErrUnauthorized, "that one's tokens are not known here")
	require.Equal(t, 1, server.Count(tokenRequests))

	r = registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Realm: "http://169.254.169.254/latest"}))
	_, err = insecure(r, nil).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorContains(t, err, "169.254.169.254 is link-local")
}

// TestPageDuringHandshake: a page is neither a registry without authentication nor a token,
// and is not remembered.
func TestPageDuringHandshake(t *testing.T) {
	for at, kind := range map[string]registrytest.Kind{"ping": registrytest.KindPing, "token": registrytest.KindToken} {
		for name, page := range pages {
			t.Run(at+"/"+name, func(t *testing.T) {
				t.Parallel()
				r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
				pushImage(t, r, "1")
				c := insecure(r, nil)
				page.Match = registrytest.Kinds(kind)
				remove := r.Inject(page.Fault)
				_, err := c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
				require.ErrorIs(t, err, registry.ErrPage)
				remove()
				_, err = c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
				require.NoError(t, err, "as soon as it is over")
			})
		}
	}
}

// TestDoubtfulPing: a registry that requested no credentials is asked again when it refuses
// requests without.
func TestDoubtfulPing(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
	pushImage(t, r, "1")
	r.Inject(registrytest.Fault{Match: pings, Status: 200, Times: 1})
	_, err := insecure(r, nil).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.NoError(t, err)
}

// TestUnidentifiedRegistries: a registry may answer the ping with nothing and require no
// credentials.
func TestUnidentifiedRegistries(t *testing.T) {
	r := registrytest.New(t)
	pushImage(t, r, "1")
	r.Inject(registrytest.Fault{Match: pings, Status: 200})
	_, err := insecure(r, nil).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.NoError(t, err)
}

// TestPortals: a redirect to a login page in plain HTTP is not a registry in plain HTTP.
func TestPortals(t *testing.T) {
	r := registrytest.New(t)
	pushImage(t, r, "1")
	nowhere := registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestGet), Status: http.StatusFound, Times: 1}
	r.Inject(nowhere)
	_, err := insecure(r, nil).Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorIs(t, err, registry.ErrPage)
	portal := registrytest.Fault{Status: http.StatusFound, Header: http.Header{"Location": {"http://portal.invalid/login"}}}
	for _, kind := range []registrytest.Kind{registrytest.KindPing, registrytest.KindManifestGet} {
		portal.Match = registrytest.Kinds(kind)
		remove := r.Inject(portal)
		_, err := insecure(r, nil).Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		require.ErrorIs(t, err, registry.ErrPage)
		require.ErrorContains(t, err, "a redirect (302) to http://portal.invalid")
		remove()
	}
}

// TestFailedHandshakes: the error of a handshake does not count as one about the manifest or
// repository.
func TestFailedHandshakes(t *testing.T) {
	for _, kind := range []registrytest.Kind{registrytest.KindPing, registrytest.KindToken} {
		for _, status := range []int{404, 405, 410} {
			r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}), registrytest.WithReferrersAPI(0))
			digest, _ := pushImage(t, r, "1")
			remove := r.Inject(registrytest.Fault{Match: registrytest.Kinds(kind), Status: status, Body: "404 page not found"})
			c := insecure(r, nil).Writing()
			repository := reference.MustRepository(r.Host() + "/" + repository)
			_, err := c.Head(t.Context(), repository, reference.MustTag("1"))
			require.ErrorIs(t, err, registry.ErrUnexpected)
			require.False(t, registry.Absent(err))
			require.ErrorContains(t, err, "the login: ")
			_, err = referrers(t.Context(), c, repository.String(), digest)
			require.ErrorIs(t, err, registry.ErrUnexpected)
			remove()
			_, err = referrers(t.Context(), c, repository.String(), digest)
			require.NoError(t, err)
		}
	}
}

// TestFailingKeychain: an error of the keychain does not end a valid session.
func TestFailingKeychain(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "old"}))
	pushImage(t, r, "1")
	keychain := new(fixed)
	keychain.set("bob", "old")
	c := insecure(r, keychain)
	look := func() error {
		_, err := c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		return err
	}
	require.NoError(t, look())
	keychain.fails = containers.ErrHelper
	require.NoError(t, look())
	r.ExpireTokens()
	require.ErrorIs(t, look(), registry.ErrCredentials)
	keychain.fails = nil
	require.NoError(t, look())
}

// TestNoTLS: if a server answers a TLS handshake with something else, the error is that over plain
// HTTP, which it speaks.
func TestNoTLS(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			first := make([]byte, 1)
			if _, err := conn.Read(first); err == nil && first[0] == 0x16 {
				_, _ = io.WriteString(conn, "<!DOCTYPE HTML><title>Bad request syntax</title>")
			} else {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 24\r\n\r\n<html>maintenance</html>")
			}
			_ = conn.Close()
		}
	}()
	c := registry.NewClient(registry.Options{Insecure: []string{listener.Addr().String()}})
	repository := reference.MustRepository(listener.Addr().String() + "/a")
	require.ErrorContains(t, c.Alive(t.Context(), repository, true), "HTML page")
	_, err = c.Head(t.Context(), repository, reference.MustTag("1"))
	require.ErrorContains(t, err, "HTML page")
	require.NotContains(t, err.Error(), "TLS handshake")
}
