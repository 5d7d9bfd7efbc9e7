package list

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/redact"
)

// stdin is the MIRROR_SOURCE_URL of standard input.
const stdin = "-"

var (
	// ErrUnreachable is returned if the list cannot be read.
	ErrUnreachable = exit.Unreachable.New("the list could not be read")
	// ErrBadSource is returned if MIRROR_SOURCE_URL is not a URL, a file or "-".
	ErrBadSource = exit.Usage.New("MIRROR_SOURCE_URL")
)

const (
	// tryTimeout bounds one request, with its body.
	tryTimeout = 30 * time.Second
	// fetchDeadline bounds all tries and the pauses between them.
	fetchDeadline = 2 * time.Minute
	// maxTries is how often a request is sent at most.
	maxTries = 4
)

// Fetcher fetches lists. Its zero value is ready to use; all fields are optional.
type Fetcher struct {
	// Transport defaults to http.DefaultTransport, which uses HTTPS_PROXY, NO_PROXY and
	// SSL_CERT_FILE.
	Transport *http.Transport
	// Stdin defaults to os.Stdin.
	Stdin io.Reader
	// Timeout bounds one try. The default is 30 seconds.
	Timeout time.Duration
	// Deadline bounds all tries together. The default is 2 minutes.
	Deadline time.Duration
	// Backoff returns the pause before a retry, which is counted from 1. The default is a random time
	// up to 1, 2, 4 … seconds.
	Backoff func(retry int) time.Duration

	lookup func(ctx context.Context, host string) ([]netip.Addr, error) // for tests
}

// Fetch reads a list from an http, https or file URL, from a file, or from standard input if the source
// is "-". It never shows user information in a URL. The error is ErrBadSource, ErrUnreachable, the
// error of the context, or ErrBadList if the list is too large or an HTML page.
func (f Fetcher) Fetch(ctx context.Context, source string) ([]byte, error) {
	if source == stdin {
		in := f.Stdin
		if in == nil {
			in = os.Stdin
		}
		return f.read(ctx, source, func() ([]byte, error) { return readCapped(in) })
	}
	if !looksLikeURL(source) {
		return f.readFile(ctx, source, source)
	}
	u, err := url.Parse(source)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not a valid URL", ErrBadSource, Shown(source))
	}
	switch u.Scheme {
	case "http", "https":
		if u.Hostname() == "" {
			return nil, fmt.Errorf("%w: %s has no host", ErrBadSource, Shown(source))
		}
		return f.fetchHTTP(ctx, u)
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return nil, fmt.Errorf("%w: expected file:///path, found %s", ErrBadSource, Shown(source))
		}
		return f.readFile(ctx, source, u.Path)
	default:
		return nil, fmt.Errorf("%w: %s has the scheme %q; expected http, https, file, a path, or - for standard input", ErrBadSource, Shown(source), u.Scheme)
	}
}

// Shown returns a source without secrets. It removes user information and the values of the query.
func Shown(source string) string {
	if source == stdin {
		return "standard input"
	}
	return redact.URL(source)
}

// looksLikeURL reports whether a source is meant as a URL. It includes mistakes such as http:/host.
func looksLikeURL(source string) bool {
	return strings.Contains(source, "://") || strings.HasPrefix(source, "http:/") || strings.HasPrefix(source, "https:/")
}

func (f Fetcher) readFile(ctx context.Context, source, path string) ([]byte, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: expected a file or URL, found nothing", ErrBadSource)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%w: %s is a directory; expected a file or URL", ErrBadSource, Shown(source))
	}
	return f.read(ctx, source, func() ([]byte, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return readCapped(file)
	})
}

// read returns early if the context ends. A read from a terminal, or from a named pipe without a writer,
// cannot be interrupted: its goroutine stays until the process ends.
func (f Fetcher) read(ctx context.Context, source string, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := read()
		done <- result{data, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("read list %s: %w", Shown(source), context.Cause(ctx))
	case r := <-done:
		return r.data, readError(source, r.err)
	}
}

// errTooLarge is returned for more than MaxBytes.
var errTooLarge = errors.New("too large")

func readCapped(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxBytes {
		return nil, errTooLarge
	}
	return data, nil
}

// mayBeURL reports whether a path begins with a name that may be a host.
func mayBeURL(path string) bool {
	host, _, found := strings.Cut(path, "/")
	return found && strings.Contains(strings.Trim(host, "."), ".")
}

// readError wraps an error of a read with ErrUnreachable or ErrBadList, and names the source.
func readError(source string, err error) error {
	if err == nil {
		return nil
	}
	var path *os.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist) && mayBeURL(source):
		return fmt.Errorf("%w: %s: no such file; is https://%[2]s meant?", ErrUnreachable, Shown(source))
	case errors.Is(err, errTooLarge):
		return newError(Shown(source), []problem{*tooLarge()})
	case errors.Is(err, errHTML):
		return newError(Shown(source), []problem{{Message: htmlPage}})
	case errors.As(err, &path):
		// The path may be a mistyped URL with secrets.
		err = path.Err
	}
	return fmt.Errorf("%w: %s: %s", ErrUnreachable, Shown(source), redact.Text(err.Error()))
}

const (
	// backoffBase is the longest pause before the first retry. It doubles for each further one.
	backoffBase = time.Second
	// maxRedirects is the limit of net/http.
	maxRedirects = 10
	userAgent    = "skopeo-worker"
)

// errHTML is returned for an answer with the content type of an HTML page.
var errHTML = errors.New("an HTML page")

// errTimeout replaces "context deadline exceeded".
var errTimeout = errors.New("no complete answer in time")

// permanent is an error that a retry cannot avoid.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func (f Fetcher) fetchHTTP(ctx context.Context, u *url.URL) ([]byte, error) {
	whole, cancel := context.WithTimeout(ctx, cmp.Or(f.Deadline, fetchDeadline))
	defer cancel()
	backoff := f.Backoff
	if backoff == nil {
		backoff = func(retry int) time.Duration { return rand.N(backoffBase << (retry - 1)) }
	}
	network := f.network()
	defer network.proxied.CloseIdleConnections()
	for n := 1; ; n++ {
		data, err := f.request(whole, network, u)
		if err == nil {
			return data, nil
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = errTimeout
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("read list %s: %w", Shown(u.String()), context.Cause(ctx))
		}
		if errors.As(err, new(permanent)) {
			return nil, readError(u.String(), err)
		}
		if n < maxTries {
			select {
			case <-time.After(backoff(n)):
				continue
			case <-whole.Done():
			}
		}
		return nil, readError(u.String(), fmt.Errorf("%w (tries: %d)", err, n))
	}
}

// request sends one request and reads the whole answer.
func (f Fetcher) request(ctx context.Context, network *network, u *url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.Timeout, tryTimeout))
	defer cancel()
	// The credentials are sent in a header: errors of net/http do not show headers, and a redirect on the
	// same host keeps them.
	bare := *u
	bare.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, bare.String(), nil)
	if err != nil {
		return nil, permanent{err}
	}
	req.Header.Set("User-Agent", userAgent)
	if u.User != nil {
		password, _ := u.User.Password()
		req.SetBasicAuth(u.User.Username(), password)
	}
	client := http.Client{Transport: network, CheckRedirect: checkRedirect}
	resp, err := client.Do(req)
	if err != nil {
		return nil, requestError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp)
	}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == "text/html" {
		return nil, permanent{errHTML}
	}
	data, err := readCapped(resp.Body)
	if errors.Is(err, errTooLarge) {
		err = permanent{err}
	}
	return data, err
}

// checkRedirect removes credentials from requests to other hosts, and the Referer, whose query may hold
// secrets, from all. It refuses a redirect from https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	req.Header.Del("Referer")
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
	}
	if len(via) > maxRedirects {
		return permanent{fmt.Errorf("redirected more than %d times", maxRedirects)}
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return permanent{fmt.Errorf("redirected to a %s URL", req.URL.Scheme)}
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme == "http" {
		return refuse(req.URL, "which is not https")
	}
	return nil
}

// requestError removes the URL from an error of net/http.
func requestError(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if refused := (*refusedRedirect)(nil); errors.As(err, &refused) {
		return permanent{refused} // the error of the dialer adds the address
	}
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		return permanent{err}
	}
	return err
}

func statusError(resp *http.Response) error {
	err := fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests {
		return err
	}
	return permanent{err}
}
