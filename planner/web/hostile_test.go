package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// TestReadOnlyInBrowser: no page has a button or a link that starts an action, and a form that is
// sent anyway has no effect.
func TestReadOnlyInBrowser(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	live := f.bad()
	served := serve(t, Config{ReadOnly: true}, f.site, quiet)
	ctx := browser(t, func(text string) bool { return strings.Contains(text, "status of 403") })
	for _, path := range paths(live) {
		do(t, ctx, chromedp.Navigate(served.URL+path), chromedp.WaitVisible("main h1"))
		require.Zero(t, ask[int](t, ctx, `document.querySelectorAll('form[method=post], main a[href*="/actions/"]').length`), path)
		require.Equal(t, "read-only", ask[string](t, ctx, `document.querySelector(".who span").textContent`))
	}
	for _, action := range []string{"plan", "republish", "cancel?run=" + live, "release", "prune", "execute"} {
		require.Equal(t, 403, ask[int](t, ctx, fmt.Sprintf(`(() => { const r = new XMLHttpRequest(); r.open("POST", "/actions/%s", false); r.send(); return r.status })()`, action)))
	}
	require.Empty(t, f.actions.all())
}

// TestClickjacking: no other site can show a page in a frame and cover its buttons.
func TestClickjacking(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	live := f.bad()
	served := serve(t, Config{}, f.site, quiet)
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `<!doctype html><title>hostile</title><link rel=icon href="data:,"><iframe src="%s%s"></iframe>`, served.URL, r.URL.RequestURI())
	}))
	defer hostile.Close()
	var refused atomic.Int64
	ctx := browser(t, func(text string) bool {
		if strings.Contains(text, "frame-ancestors") {
			refused.Add(1)
		}
		return strings.Contains(text, "frame-ancestors") || strings.Contains(text, "X-Frame-Options") || strings.Contains(text, "ERR_BLOCKED_BY_RESPONSE")
	})
	for n, path := range paths(live) {
		do(t, ctx, chromedp.Navigate(hostile.URL+path))
		require.Eventually(t, func() bool { return refused.Load() > int64(n) }, browserTime, 20*time.Millisecond, path)
		response, _ := get(t, served.URL+path)
		require.Contains(t, response.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'", path)
		require.Equal(t, "DENY", response.Header.Get("X-Frame-Options"), path)
	}
}

// TestSlowClients: endless headers, endless bodies and unread answers do not block other clients.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.bad()
	s, err := Listen(Config{Addr: "127.0.0.1:0"}, "test", http.NotFoundHandler(), quiet)
	require.NoError(t, err)
	s.Show(f.site)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Serve(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
	}()
	defer func() {
		stop()
		require.NoError(t, <-ended)
	}()
	const each = 100
	var slow []net.Conn
	dial := func(request string) {
		t.Helper()
		c, err := net.Dial("tcp", s.listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, err = io.WriteString(c, request)
		require.NoError(t, err)
		slow = append(slow, c)
	}
	for range each {
		dial("GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
		dial("POST /actions/plan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\na=")
		dial("GET /runs HTTP/1.1\r\nHost: localhost\r\n\r\n") // it does not read the answer
	}
	response, text := get(t, "http://"+s.listener.Addr().String()+"/")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Contains(t, text, "Now")
	// The server disconnects endless clients, and their requests have had no effect.
	for _, c := range slow[:2] {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err := io.Copy(io.Discard, bufio.NewReader(c))
		require.NoError(t, err, "it is closed")
	}
	require.Empty(t, f.actions.all())
}
