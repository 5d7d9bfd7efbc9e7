package transfer_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// uploadHost is a host that accepts the uploads of a registry, without credentials.
type uploadHost struct {
	*registrytest.Registry
	url     string
	secrets atomic.Int64 // requests with credentials or a Referer
}

// newPairWithUploadHost returns a pair whose destination has a second host for uploads.
func newPairWithUploadHost(t *testing.T, options ...registrytest.Option) (*pair, *uploadHost) {
	t.Helper()
	stored := registrytest.WithDirectory(t.TempDir())
	host := &uploadHost{Registry: registrytest.New(t, stored)}
	behind, err := url.Parse(host.URL())
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		if p.In.Header.Get("Authorization") != "" || p.In.Referer() != "" {
			host.secrets.Add(1)
		}
		p.SetURL(behind)
		p.Out.Host = p.In.Host
	}, ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	host.url = front.URL
	p := &pair{
		from: registrytest.New(t, registrytest.WithDirectory(t.TempDir())),
		to:   registrytest.New(t, append(options, stored, registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}))...),
	}
	p.Blobs = transfer.New(registry.NewClient(registry.Options{
		Insecure: []string{p.from.Host(), p.to.Host(), front.Listener.Addr().String()}, Keychain: login{},
	})).Shrink(shrunk)
	return p, host
}

// at returns the URL with the same path and query at the host.
func (h *uploadHost) at(asked *url.URL) string { return h.url + asked.RequestURI() }

// anyOf matches requests of these methods about uploads.
func anyOf(methods ...string) registrytest.Match {
	return func(r registrytest.Request) bool {
		for _, m := range methods {
			if r.Method == m && strings.Contains(r.Path, "/blobs/uploads/") {
				return true
			}
		}
		return false
	}
}

// TestRedirectedUploads: the requests of an upload follow redirects, with their content and without
// credentials.
func TestRedirectedUploads(t *testing.T) {
	t.Parallel()
	http2 := []registrytest.Option{registrytest.WithTLS(), registrytest.WithHTTP2()}
	for name, test := range map[string]struct {
		options []registrytest.Option
		methods []string
		status  int
		drains  bool
	}{
		"PATCH":               {methods: []string{"PATCH"}, status: 307},
		"PATCH, for good":     {methods: []string{"PATCH"}, status: 308},
		"PATCH, buffered":     {methods: []string{"PATCH"}, status: 307, drains: true},
		"PATCH, HTTP/2":       {methods: []string{"PATCH"}, status: 307, options: http2},
		"PUT":                 {methods: []string{"PUT"}, status: 307},
		"PUT, buffered":       {methods: []string{"PUT"}, status: 308, drains: true},
		"PUT, HTTP/2":         {methods: []string{"PUT"}, status: 308, options: http2},
		"POST":                {methods: []string{"POST"}, status: 307},
		"all":                 {methods: []string{"POST", "PATCH", "PUT", "GET", "DELETE"}, status: 308},
		"all, buffered":       {methods: []string{"POST", "PATCH", "PUT", "GET", "DELETE"}, status: 307, drains: true},
		"no PATCH":            {methods: []string{"PUT"}, status: 307, options: []registrytest.Option{registrytest.WithoutPatch(405)}},
		"no PATCH, buffered":  {methods: []string{"PUT"}, status: 307, drains: true, options: []registrytest.Option{registrytest.WithoutPatch(405)}},
		"body limit":          {methods: []string{"PATCH"}, status: 307, options: []registrytest.Option{registrytest.WithBodyLimit(2 * unit)}},
		"body limit buffered": {methods: []string{"PATCH"}, status: 307, drains: true, options: []registrytest.Option{registrytest.WithBodyLimit(2 * unit)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, host := newPairWithUploadHost(t, test.options...)
			unit := unit
			if strings.HasSuffix(name, "HTTP/2") { // larger blobs take HTTP/1.1
				p.Shrink(1)
				unit = mib
			}
			p.to.Inject(registrytest.Fault{Match: anyOf(test.methods...), Status: test.status, Location: host.at, Drain: test.drains})
			for _, size := range []int{0, 1000, 3 * unit, 9 * unit, 20*unit + 1} {
				blob, content := p.push(t, size)
				require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
				p.holds(t, "a", blob, content)
			}
			require.NotEmpty(t, host.Requests())
			require.Zero(t, host.secrets.Load())
		})
	}
}

// TestRedirectsAreRemembered: after a redirect of content, later requests wait for 100 Continue before
// they send theirs, so that nothing is read and sent in vain.
func TestRedirectsAreRemembered(t *testing.T) {
	t.Parallel()
	p, host := newPairWithUploadHost(t)
	p.to.Inject(registrytest.Fault{Match: patches, Status: http.StatusTemporaryRedirect, Location: host.at})
	for i := range 3 {
		blob, content := p.push(t, 9*unit+i)
		p.from.ResetRequests()
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
		p.holds(t, "a", blob, content)
		if i > 0 {
			require.Equal(t, 1, p.from.Count(gets))
		}
	}
}

// TestRedirectedUploadsAreResumed: after a cut, the request for the upload's status follows redirects,
// and the upload is resumed.
func TestRedirectedUploadsAreResumed(t *testing.T) {
	t.Parallel()
	p, host := newPairWithUploadHost(t)
	p.to.Inject(registrytest.Fault{Match: anyOf("PATCH", "GET", "PUT"), Status: http.StatusTemporaryRedirect, Location: host.at})
	host.Inject(registrytest.Fault{Match: patches, CutUpload: 5 * unit, Times: 1})
	blob, content := p.push(t, 8*unit)
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.holds(t, "a", blob, content)
	require.Contains(t, ranges(host.Registry, anyOf("PATCH", "PUT")), fmt.Sprintf("%d-%d", 5*unit, 8*unit-1))
}

// TestTheNextTryFollowsNoOldRedirect: if another blob fails just after a part of an upload was
// redirected, a retry continues the upload at the registry, because the redirect may be out of date.
func TestTheNextTryFollowsNoOldRedirect(t *testing.T) {
	t.Parallel()
	p, host := newPairWithUploadHost(t, registrytest.WithBodyLimit(8*unit))
	blob, content := p.push(t, 20*unit)
	other, _ := p.push(t, 10*unit)
	missing := registry.Descriptor{Digest: reference.DigestOf([]byte("missing")), Size: 7}
	fails := make(chan struct{})
	p.from.Inject(registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref(missing.Digest.String())), Gate: fails})
	second := func(r registrytest.Request) bool {
		return patches(r) && strings.HasPrefix(r.Range, fmt.Sprint(8*unit, "-"))
	}
	var redirected atomic.Bool
	p.to.Inject(registrytest.Fault{Match: second, Status: http.StatusTemporaryRedirect, Drain: true, Times: 1, Location: func(asked *url.URL) string {
		redirected.Store(true)
		return host.at(asked)
	}})
	guard := func(ctx context.Context, request registry.Request, send func() error) error {
		err := send()
		if request.Op == registry.OpPut && redirected.CompareAndSwap(true, false) {
			close(fails)
			<-ctx.Done()
		}
		return err
	}
	p.Blobs = transfer.New(registry.NewClient(registry.Options{
		Insecure: []string{p.from.Host(), p.to.Host(), strings.TrimPrefix(host.url, "http://")}, Keychain: login{}, Guard: guard,
	})).Shrink(shrunk)
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), other), "the size of pieces is known then")
	require.ErrorIs(t, p.Send(t.Context(), p.source(), p.destination("a"), blob, missing), registry.ErrNotFound)
	require.Empty(t, host.Requests())
	p.to.ResetRequests()
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.holds(t, "a", blob, content)
	require.Zero(t, p.to.Count(begins))
	require.Empty(t, host.Requests())
}

// TestRedirectedMounts: requests to mount a blob follow redirects.
func TestRedirectedMounts(t *testing.T) {
	t.Parallel()
	p, host := newPairWithUploadHost(t)
	blob, content := p.push(t, 9*unit)
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.to.Inject(registrytest.Fault{Match: mounts, Status: http.StatusTemporaryRedirect, Location: host.at})
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), blob))
	p.holds(t, "b", blob, content)
	require.Equal(t, 1, host.Count(registrytest.All(mounts, registrytest.Answered(http.StatusCreated))))
	require.Equal(t, 1, p.from.Count(gets))
	require.Zero(t, host.secrets.Load())
}

// TestRedirectsThatLeadNowhere: loops end, and no redirect leads to another repository or to plain
// HTTP. The error names the destination.
func TestRedirectsThatLeadNowhere(t *testing.T) {
	t.Parallel()
	to := func(text string) func(*url.URL) string { return func(*url.URL) string { return text } }
	for name, location := range map[string]func(*url.URL) string{
		"a loop":                       func(asked *url.URL) string { return asked.RequestURI() },
		"a manifest":                   to("/v2/a/manifests/latest"),
		"another repository":           to("/v2/victim/app/blobs/uploads/x"),
		"another repository, by dots":  to("/v2/a/blobs/uploads/%2e%2e/%2e%2e/%2e%2e/victim/app/manifests/latest"),
		"plain HTTP":                   to("http://untrusted.example/x"),
		"no host that is there":        to("https://127.0.0.1:1/x"),
		"another scheme":               to("ftp://127.0.0.1/x"),
		"no URL":                       to("http://[::1"),
		"a login for another password": to("http://user:secret@127.0.0.1/x"),
	} {
		for _, method := range []string{"POST", "PATCH", "PUT"} {
			t.Run(name+" "+method, func(t *testing.T) {
				t.Parallel()
				p, _ := newPairWithUploadHost(t)
				blob, _ := p.push(t, 9*unit)
				p.to.Inject(registrytest.Fault{Match: anyOf(method), Status: http.StatusTemporaryRedirect, Location: location})
				p.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool {
					return r.Method != http.MethodHead && strings.Contains(r.Path, "victim")
				},
					Location: func(*url.URL) string { t.Error("a request to another repository"); return "" }, Status: http.StatusTeapot})
				err := p.Send(t.Context(), p.source(), p.destination("a"), blob)
				failed := (*registry.Error)(nil)
				require.ErrorAs(t, err, &failed)
				require.Equal(t, p.destination("a"), failed.Repository)
				require.Equal(t, registry.OpPut, failed.Op)
				require.NotContains(t, err.Error(), "secret")
				require.Less(t, len(p.to.Requests()), 60)
				p.lacks(t, "a", blob)
			})
		}
	}
}

// TestRefusedByTheUploadHost: if the host to which an upload is redirected refuses it, the error names
// that host.
func TestRefusedByTheUploadHost(t *testing.T) {
	t.Parallel()
	p, host := newPairWithUploadHost(t)
	for _, method := range []string{"POST", "PATCH", "PUT"} {
		for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
			remove := p.to.Inject(registrytest.Fault{Match: anyOf(method), Status: http.StatusTemporaryRedirect, Location: host.at})
			removeToo := host.Inject(registrytest.Fault{Match: anyOf(method), Status: status})
			blob, _ := p.push(t, 9*unit)
			err := p.Send(t.Context(), p.source(), reference.MustRepository(p.to.Host()+"/"+strings.ToLower(method)), blob)
			require.ErrorIs(t, err, registry.ErrUnavailable)
			require.ErrorContains(t, err, strings.TrimPrefix(host.url, "http://")+fmt.Sprintf(" refused the request that the registry has redirected to it (%d)", status))
			remove()
			removeToo()
		}
	}
	require.Zero(t, host.secrets.Load())
}
