package list_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
)

const body = "containers:\n- nginx\n"

// impatient returns a fetcher that retries at once.
func impatient() list.Fetcher {
	return list.Fetcher{Backoff: func(int) time.Duration { return 0 }}
}

// serve answers each request with the next handler, and all further requests with the last one.
func serve(t *testing.T, handlers ...http.HandlerFunc) (*httptest.Server, *atomic.Int32) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(requests.Add(1))
		handlers[min(n, len(handlers))-1](w, r)
	}))
	t.Cleanup(server.Close)
	return server, &requests
}

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	io.WriteString(w, body)
}

func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// hang does not answer until the client disconnects.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func stall(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, body)
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// withSecrets adds user information and a query to the URL of a server.
func withSecrets(address string) string {
	return strings.Replace(address, "://", "://user:s3cret@", 1) + "/list.yml?token=s3cret"
}

func TestFetchRetriesWhatMayPass(t *testing.T) {
	for name, passing := range map[string]http.HandlerFunc{
		"500": status(500), "502": status(502), "503": status(503), "429": status(429),
		"reset": reset, "truncated": truncated, "no answer": hang, "no end": stall,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, requests := serve(t, passing, passing, ok)
			f := impatient()
			if strings.HasPrefix(name, "no ") {
				f.Timeout = 500 * time.Millisecond
			}
			data, err := f.Fetch(t.Context(), withSecrets(server.URL))
			require.NoError(t, err)
			require.Equal(t, body, string(data))
			require.EqualValues(t, 3, requests.Load())

			server, requests = serve(t, passing)
			_, err = f.Fetch(t.Context(), withSecrets(server.URL))
			require.ErrorIs(t, err, list.ErrUnreachable)
			require.ErrorContains(t, err, server.URL+"/list.yml?xxxxx: ")
			require.ErrorContains(t, err, "(tries: 4)")
			require.NotContains(t, err.Error(), "s3cret")
			require.EqualValues(t, 4, requests.Load())
		})
	}
}

func TestFetchGivesUpAtOnce(t *testing.T) {
	type answer struct {
		handler http.HandlerFunc
		class   error
		want    string
	}
	for name, test := range map[string]answer{
		"404":      {status(404), list.ErrUnreachable, "404 Not Found"},
		"401":      {status(401), list.ErrUnreachable, "401 Unauthorized"},
		"403":      {status(403), list.ErrUnreachable, "403 Forbidden"},
		"204":      {status(204), list.ErrUnreachable, "204 No Content"},
		"file URL": {redirect("file:///etc/passwd"), list.ErrUnreachable, "redirected to a file URL"},
		"HTML": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			ok(w, r)
		}, list.ErrBadList, "HTML page"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, list.ErrBadList, "larger than 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			server, requests := serve(t, test.handler)
			_, err := impatient().Fetch(t.Context(), withSecrets(server.URL))
			require.ErrorIs(t, err, test.class)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, server.URL+"/list.yml?xxxxx: ")
			require.NotContains(t, err.Error(), "s3cret")
			require.EqualValues(t, 1, requests.Load())
		})
	}
}

func TestFetchSendsCredentialsToTheirHostOnly(t *testing.T) {
	type seen struct{ user, password, referer string }
	var here, there seen
	record := func(to *seen) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			to.user, to.password, _ = r.BasicAuth()
			to.referer = r.Referer()
			ok(w, r)
		}
	}
	foreign, _ := serve(t, record(&there))
	away, _ := serve(t, redirect(foreign.URL))
	_, err := impatient().Fetch(t.Context(), withSecrets(away.URL))
	require.NoError(t, err)
	require.Equal(t, seen{}, there)

	var home *httptest.Server
	home, _ = serve(t, func(w http.ResponseWriter, r *http.Request) { redirect(home.URL+"/raw")(w, r) }, record(&here))
	_, err = impatient().Fetch(t.Context(), withSecrets(home.URL))
	require.NoError(t, err)
	require.Equal(t, seen{user: "user", password: "s3cret"}, here)
}

func TestFetchCapsRedirects(t *testing.T) {
	server, requests := serve(t, redirect("/again"))
	_, err := impatient().Fetch(t.Context(), server.URL)
	require.ErrorIs(t, err, list.ErrUnreachable)
	require.ErrorContains(t, err, "redirected more than 10 times")
	require.EqualValues(t, 11, requests.Load())
}

func TestFetchKeepsItsDeadline(t *testing.T) {
	server, requests := serve(t, status(503))
	f := list.Fetcher{Deadline: 50 * time.Millisecond, Backoff: func(int) time.Duration { return time.Hour }}
	_, err := f.Fetch(t.Context(), server.URL)
	require.ErrorIs(t, err, list.ErrUnreachable)
	require.ErrorContains(t, err, "503 Service Unavailable (tries: 1)")
	require.EqualValues(t, 1, requests.Load())
}

func TestFetchBacksOffLonger(t *testing.T) {
	server, _ := serve(t, status(503))
	var retries []int
	f := list.Fetcher{Backoff: func(retry int) time.Duration {
		retries = append(retries, retry)
		return 0
	}}
	_, err := f.Fetch(t.Context(), server.URL)
	require.ErrorIs(t, err, list.ErrUnreachable)
	require.Equal(t, []int{1, 2, 3}, retries)
}

func TestFetchIsInterrupted(t *testing.T) {
	stopped := errors.New("stopped")
	server, _ := serve(t, hang)
	pipe, writer := io.Pipe()
	t.Cleanup(func() { writer.Close() })
	for _, source := range []string{server.URL, "-"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stopped)
		_, err := list.Fetcher{Stdin: pipe}.Fetch(ctx, source)
		require.ErrorIs(t, err, stopped, source)
		require.NotErrorIs(t, err, list.ErrUnreachable, source)
	}
}

func TestFetchRefusesUnknownCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	_, err := impatient().Fetch(t.Context(), server.URL)
	require.ErrorIs(t, err, list.ErrUnreachable)
	require.ErrorContains(t, err, "certificate")
	require.NotContains(t, err.Error(), "tries")

	f := impatient()
	f.Transport = server.Client().Transport.(*http.Transport)
	data, err := f.Fetch(t.Context(), server.URL)
	require.NoError(t, err)
	require.Equal(t, body, string(data))
}

func TestFetchThroughProxy(t *testing.T) {
	var target string
	proxy, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		target = r.URL.String()
		ok(w, r)
	})
	address, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	f := impatient()
	f.Transport = &http.Transport{Proxy: http.ProxyURL(address)}
	_, err = f.Fetch(t.Context(), "http://list.example/list.yml")
	require.NoError(t, err)
	require.Equal(t, "http://list.example/list.yml", target)
}

func TestFetchRefusedConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := "http://" + listener.Addr().String()
	require.NoError(t, listener.Close())
	_, err = impatient().Fetch(t.Context(), withSecrets(address))
	require.ErrorIs(t, err, list.ErrUnreachable)
	require.ErrorContains(t, err, "connection refused (tries: 4)")
	require.NotContains(t, err.Error(), "s3cret")
}

func TestFetchFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a list.yml")
	require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
	fileURL := (&url.URL{Scheme: "file", Path: path}).String()
	for _, source := range []string{path, fileURL, strings.Replace(fileURL, "file://", "FILE://localhost", 1), "-"} {
		data, err := list.Fetcher{Stdin: strings.NewReader(body)}.Fetch(t.Context(), source)
		require.NoError(t, err, source)
		require.Equal(t, body, string(data), source)
	}
	large := filepath.Join(dir, "large")
	require.NoError(t, os.WriteFile(large, nil, 0o600))
	require.NoError(t, os.Truncate(large, list.MaxBytes+1))
	for source, want := range map[string]error{
		dir:                              list.ErrBadSource,
		"file://" + dir:                  list.ErrBadSource,
		filepath.Join(dir, "none"):       list.ErrUnreachable,
		"file://" + dir + "/none":        list.ErrUnreachable,
		large:                            list.ErrBadList,
		"":                               list.ErrBadSource,
		"file://elsewhere/list.yml":      list.ErrBadSource,
		"ftp://user:s3cret@host/list":    list.ErrBadSource,
		"https:///list.yml":              list.ErrBadSource,
		"https:/user:s3cret@host/list":   list.ErrBadSource,
		"https://user:s3c ret@host/list": list.ErrBadSource,
		"https://user:s3cret@host:x/l":   list.ErrBadSource,
		"user:s3cret@host/list.yml":      list.ErrUnreachable,
	} {
		_, err := list.Fetcher{}.Fetch(t.Context(), source)
		require.ErrorIs(t, err, want, source)
		require.NotContains(t, err.Error(), "s3c", source)
	}
	_, err := list.Fetcher{}.Fetch(t.Context(), filepath.Join(dir, "none"))
	require.EqualError(t, err, "the list could not be read: "+filepath.Join(dir, "none")+": no such file or directory")
}

func TestShown(t *testing.T) {
	for text, want := range map[string]string{
		"-":                           "standard input",
		"https://u:p@example.com/l?a": "https://example.com/l?xxxxx",
	} {
		require.Equal(t, want, list.Shown(text))
	}
}
