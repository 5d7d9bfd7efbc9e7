package list

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"time"
)

const (
	// backoffBase is the longest pause before the first retry; it doubles.
	backoffBase = time.Second
	// maxRedirects is what net/http and curl's users are used to.
	maxRedirects = 10
	userAgent    = "skopeo-worker"
)

// errHTML is an answer that says itself that it is a page.
var errHTML = errors.New("an HTML page")

// errTimeout says what "context deadline exceeded" means here.
var errTimeout = errors.New("no complete answer in time")

// permanent is an error that another try would meet again.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func (f Fetcher) fetchHTTP(ctx context.Context, u *url.URL) ([]byte, error) {
	whole, cancel := context.WithTimeout(ctx, orDefault(f.Deadline, fetchDeadline))
	defer cancel()
	backoff := f.Backoff
	if backoff == nil {
		backoff = fullJitter
	}
	network := f.network()
	defer network.proxied.CloseIdleConnections()
	for try := 1; ; try++ {
		data, err := f.try(whole, network, u)
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
		if try == maxTries || pause(whole, backoff(try)) != nil {
			return nil, readError(u.String(), fmt.Errorf("%w (tries: %d)", err, try))
		}
	}
}

// try makes one request and reads its answer to the end.
func (f Fetcher) try(ctx context.Context, network *network, u *url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, orDefault(f.Timeout, tryTimeout))
	defer cancel()
	// Credentials travel as a header, so that no error of net/http can show
	// them and a redirect on the same host keeps them.
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

// checkRedirect keeps credentials, and the query in the Referer, from anyone
// but the host they were meant for, and the list from being read without TLS
// where it was to be read with it.
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

// requestError drops the URL that net/http puts into its errors.
func requestError(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if refused := (*refusedRedirect)(nil); errors.As(err, &refused) {
		return permanent{refused} // without where it was dialled
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

func fullJitter(retry int) time.Duration {
	return rand.N(backoffBase << (retry - 1))
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}
