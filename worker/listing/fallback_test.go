package listing_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// soon returns the unix time in some seconds.
func soon(seconds int) string {
	return strconv.FormatInt(time.Now().Unix()+int64(seconds), 10)
}

func TestFallsBackToOCI(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"unauthorized": {Status: http.StatusUnauthorized, Body: `{"error_message":"Unauthorized"}`},
		"denied":       {Status: http.StatusForbidden, Body: "<html><h1>Forbidden</h1></html>"},
		"refused":      {Status: http.StatusBadRequest},
		"not found":    {Status: http.StatusNotFound, Body: `{"message":"object not found"}`},
		"page":         {Status: http.StatusOK, Body: "<html><h1>Sign in</h1></html>"},
		"cut":          {Status: http.StatusOK, Body: `{"results":[{"na`},
		"other API":    {Status: http.StatusOK, Body: `{"message":"hello"}`},
		"other fields": {Status: http.StatusOK, Body: `{"results":[{"name":1}],"tags":[{"start_ts":"x"}]}`},
		"plain HTTP":   {Status: http.StatusFound, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}},
	} {
		for _, page := range []int{1, 2} {
			t.Run(fmt.Sprint(name, " on page ", page), func(t *testing.T) {
				both(t, func(t *testing.T, repository string) {
					quirks := registrytest.BulkAPI{PageLimit: 2}
					s := start(t, quirks, quirks)
					other := strings.Replace(repository, "/n", "/other-n", 1) + "-2"
					tags := []string{"a", "b", "c", "d", "e"}
					s.push(t, repository, tags...)
					s.push(t, other, tags...)
					r, _ := s.upstream(repository)
					fault.Match = registrytest.All(bulk, registrytest.Page(page))
					r.Inject(fault)

					want := []string{"e", "d", "a", "b", "c"} // the rest in lexical order
					if page == 1 {
						want = tags
					}
					require.Equal(t, want, s.names(t, repository))
					require.Equal(t, want, s.names(t, other))
					require.Equal(t, 1, strings.Count(s.log.String(), "level=WARN"), s.log.String())
				})
			})
		}
	}
}

func TestHugeAnswer(t *testing.T) {
	s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{})
	s.push(t, inQuay, "a")
	body := `{"tags":[],"page":1}` + strings.Repeat(" ", 16<<20)
	s.Quay.Inject(registrytest.Fault{Match: bulk, Status: http.StatusOK, Body: body})
	require.Equal(t, []string{"a"}, s.names(t, inQuay))
	require.Contains(t, s.log.String(), "too large")
}

func TestMissingRepository(t *testing.T) {
	both(t, func(t *testing.T, repository string) {
		s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{})
		got, err := s.list(t.Context(), repository)
		require.Empty(t, got)
		require.ErrorIs(t, err, registry.ErrNotFound, "the OCI API says so")
		require.Equal(t, outcome.Final, outcome.Classify(err))
	})
}

func TestOneWarningForEachReason(t *testing.T) {
	s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{})
	s.push(t, inQuay, "a")
	for _, status := range []int{401, 403, 401, 404, 403, 401, 404} {
		s.Quay.Inject(registrytest.Fault{Match: bulk, Times: 1, Status: status})
		require.Equal(t, []string{"a"}, s.names(t, inQuay))
	}
	require.Equal(t, 3, strings.Count(s.log.String(), "level=WARN"))
	require.Contains(t, s.log.String(), "registry=quay.io")
}

func TestNoAnswer(t *testing.T) {
	silence := func(page int) registrytest.Fault {
		return registrytest.Fault{Match: registrytest.All(bulk, registrytest.Page(page)), Reset: true}
	}
	quirks := registrytest.BulkAPI{PageLimit: 2}
	t.Run("hub.docker.com is closed off", func(t *testing.T) {
		s := start(t, quirks, quirks)
		s.push(t, inHub, "a", "b", "c")
		s.Hub.Inject(silence(1))
		require.Equal(t, []string{"a", "b", "c"}, s.names(t, inHub))
		require.Equal(t, 1, strings.Count(s.log.String(), "level=WARN"))
	})
	t.Run("hub.docker.com goes away", func(t *testing.T) {
		s := start(t, quirks, quirks)
		s.push(t, inHub, "a", "b", "c")
		s.Hub.Inject(silence(2))
		_, err := s.list(t.Context(), inHub)
		require.ErrorIs(t, err, registry.ErrUnavailable)
		require.Equal(t, outcome.Transient, outcome.Classify(err))
	})
	t.Run("half an answer", func(t *testing.T) {
		s := start(t, quirks, quirks)
		s.push(t, inQuay, "a")
		s.Quay.Inject(registrytest.Fault{Match: bulk, TruncateBody: true})
		_, err := s.list(t.Context(), inQuay)
		require.ErrorIs(t, err, registry.ErrUnavailable)
	})
	t.Run("we stop", func(t *testing.T) {
		s := start(t, quirks, quirks)
		s.push(t, inQuay, "a")
		s.Quay.Inject(registrytest.Fault{Match: bulk, Hang: true})
		ctx, cancel := context.WithCancel(t.Context())
		arrived := s.Quay.Notify(bulk)
		go func() { <-arrived; cancel() }()
		_, err := s.list(ctx, inQuay)
		require.Equal(t, outcome.Interrupted, outcome.Classify(err))
		require.Empty(t, s.log.String())
	})
}

type keychain struct{}

func (keychain) Find(context.Context, string) (containers.Credential, error) {
	return containers.Credential{Username: "bob", Password: "hunter2"}, nil
}

func (keychain) Forget(string) {}

// TestSelfHostedQuay uses plain HTTP and another port.
func TestSelfHostedQuay(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"public": nil, "private": {registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2"})},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, append(options, registrytest.WithQuayAPI(registrytest.BulkAPI{}))...)
			digest, err := r.PushImage("team/tool", "1", registrytest.Image{})
			require.NoError(t, err)
			insecure := []string{r.Host()}
			s := &setup{Listers: listing.New(listing.Options{
				Registry:  registry.NewClient(registry.Options{Insecure: insecure, Keychain: keychain{}}),
				QuayHosts: []string{" " + strings.ToUpper(r.Host())},
			})}
			for range 2 {
				got, err := s.list(t.Context(), r.Host()+"/team/tool")
				require.NoError(t, err)
				require.Equal(t, []string{"1"}, namesOf(got))
				require.Equal(t, name == "public", got[0].Digest.String() == digest)
			}
			require.Equal(t, 2, r.Count(bulk))
		})
	}
}

// TestInsecureHostNeedsPermission: neither plain HTTP nor an unknown certificate is accepted.
func TestInsecureHostNeedsPermission(t *testing.T) {
	for _, c := range []struct {
		server func(http.Handler) *httptest.Server
		err    error
	}{
		{httptest.NewServer, registry.ErrPlainHTTP}, {httptest.NewTLSServer, registry.ErrCertificate},
	} {
		asked := 0
		server := c.server(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(server.Close)
		host := strings.TrimPrefix(strings.TrimPrefix(server.URL, "http://"), "https://")
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool()}}
		s := &setup{Listers: listing.New(listing.Options{
			Registry:  registry.NewClient(registry.Options{Transport: transport}),
			QuayHosts: []string{host},
		})}
		_, err := s.list(t.Context(), host+"/team/tool")
		require.ErrorIs(t, err, c.err)
		require.Zero(t, asked)
	}
}

// TestEndlessSamePage: the server ignores the page number.
func TestEndlessSamePage(t *testing.T) {
	var paths []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		paths = append(paths, req.URL.Path)
		switch {
		case strings.HasPrefix(req.URL.Path, "/api/"):
			_, _ = w.Write([]byte(`{"tags":[{"name":"a"}],"has_additional":null}`))
		case strings.HasSuffix(req.URL.Path, "/tags/list"):
			_, _ = w.Write([]byte(`{"tags":["a","b","b"]}`))
		}
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	s := &setup{Listers: listing.New(listing.Options{
		Registry:  registry.NewClient(registry.Options{Insecure: []string{host}}),
		QuayHosts: []string{host},
	})}
	require.Equal(t, []string{"a", "b"}, s.names(t, host+"/x/y"))
	api := "/api/v1/repository/x/y/tag/"
	require.Equal(t, []string{api, api}, slices.DeleteFunc(paths, func(p string) bool { return p != api }))
}

// refusing is a transport that sends no request.
type refusing struct{ err error }

func (r refusing) RoundTrip(*http.Request) (*http.Response, error) { return nil, r.err }

// TestUnsentRequest: the OCI API is not tried, because its requests would not be sent either.
func TestUnsentRequest(t *testing.T) {
	for _, refused := range []error{&budget.SpentError{Registry: "a registry"}, budget.ErrBroker, context.Canceled} {
		both(t, func(t *testing.T, repository string) {
			var log bytes.Buffer
			s := &setup{Listers: listing.New(listing.Options{
				Registry: registry.NewClient(registry.Options{Transport: refusing{refused}}),
				Log:      slog.New(slog.NewTextHandler(&log, nil)),
			})}
			_, err := s.list(t.Context(), repository)
			require.ErrorIs(t, err, refused)
			require.Empty(t, log.String())
		})
	}
}

// TestNoCredentialsForOtherAPIs: they get none, and errors name their host.
func TestNoCredentialsForOtherAPIs(t *testing.T) {
	var log bytes.Buffer
	internet := registrytest.NewInternet(t, nil, nil)
	network := &spy{RoundTripper: internet.Transport}
	s := &setup{Listers: listing.New(listing.Options{
		Registry: registry.NewClient(registry.Options{Transport: network, Keychain: keychain{}}),
		Log:      slog.New(slog.NewTextHandler(&log, nil)),
	})}
	for r, repository := range map[*registrytest.Registry]string{internet.Hub: inHub, internet.Quay: inQuay} {
		r.Inject(registrytest.Fault{Match: bulk, Status: http.StatusUnauthorized, Body: `{"error_message":"who are you?"}`})
		_, _ = s.list(t.Context(), repository)
	}
	require.Len(t, network.anonymous, 2)
	require.Contains(t, log.String(), "list tags of docker.io/library/nginx: hub.docker.com: unauthorized: who are you?; this API is used without credentials (401)")
	require.Contains(t, log.String(), "list tags of quay.io/osism/deep/tool: unauthorized: who are you?; this API is used without credentials (401)")
}

// spy is a transport that keeps the URLs of bulk listings.
type spy struct {
	http.RoundTripper
	urls      []string
	anonymous []string // those that were requested without credentials
}

func (s *spy) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Query().Has("page") {
		s.urls = append(s.urls, request.URL.String())
		if request.Header.Get("Authorization") == "" {
			s.anonymous = append(s.anonymous, request.URL.String())
		}
	}
	return s.RoundTripper.RoundTrip(request)
}

func TestURLs(t *testing.T) {
	internet := registrytest.NewInternet(t, nil, nil)
	network := &spy{RoundTripper: internet.Transport}
	s := &setup{Listers: listing.New(listing.Options{
		Registry: registry.NewClient(registry.Options{Transport: network}),
		Log:      slog.New(slog.DiscardHandler),
	})}
	for _, repository := range []string{"docker.io/a/b", "docker.io/a/b/c", "quay.io/a/b", "quay.io/a/b/c"} {
		_, err := s.list(t.Context(), repository)
		require.ErrorIs(t, err, registry.ErrNotFound)
	}
	require.Equal(t, []string{
		"https://hub.docker.com/v2/namespaces/a/repositories/b/tags?page=1&page_size=100",
		"https://hub.docker.com/v2/namespaces/a/repositories/b%2Fc/tags?page=1&page_size=100",
		"https://quay.io/api/v1/repository/a/b/tag/?limit=100&onlyActiveTags=true&page=1",
		"https://quay.io/api/v1/repository/a/b/c/tag/?limit=100&onlyActiveTags=true&page=1",
	}, network.urls)
}

func TestFor(t *testing.T) {
	s := listing.New(listing.Options{QuayHosts: []string{"registry.example.com:5000"}})
	hub, quay := s.For(reference.MustRepository("docker.io/library/nginx")), s.For(reference.MustRepository("quay.io/osism/osism"))
	require.True(t, hub.NewestFirst())
	require.True(t, quay.NewestFirst())
	require.False(t, s.OCI().NewestFirst())
	require.NotSame(t, hub, quay)
	for repository, want := range map[string]*listing.Lister{
		"registry.example.com:5000/team/tool": quay,
		"registry.example.com/team/tool":      s.OCI(),
		"ghcr.io/team/tool":                   s.OCI(),
		"quay.io.example.com/team/tool":       s.OCI(),
	} {
		require.Same(t, want, s.For(reference.MustRepository(repository)), repository)
	}
}

func TestOCIYieldsEachNameOnce(t *testing.T) {
	s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{})
	s.push(t, inQuay, "a", "b")
	s.Quay.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindTags), Status: 200, Body: `{"tags":["b","a","b"]}`})
	oci := s.OCI()
	var names []string
	for tag, err := range oci.Tags(t.Context(), reference.MustRepository(inQuay)) {
		require.NoError(t, err)
		names = append(names, tag.Name.String())
	}
	require.Equal(t, []string{"b", "a"}, names)
}
