package listing

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/retryafter"
)

const (
	// answerTimeout bounds a request from its first byte to the last of the
	// answer, so that a trickle cannot hold a worker. It is that of the OCI API.
	answerTimeout = 2 * time.Minute

	// maxAnswerSize bounds a page. Docker Hub tells about 400 bytes of each image
	// below a tag: 100 tags of 40 platforms and attestations are 2 MB.
	maxAnswerSize = 16 << 20

	// maxRedirects is net/http's own, which a CheckRedirect of ours replaces.
	maxRedirects = 10
)

// errSlow is the cause of a request's end when answerTimeout has passed.
var errSlow = fmt.Errorf("no complete answer within %s", answerTimeout)

// api sends GET requests to APIs other than OCI's, without credentials.
type api struct {
	client    http.Client
	userAgent string
	insecure  func(host string) (bool, error)
	plain     sync.Map // insecure hosts that answered in plain HTTP
}

func newAPI(options Options) *api {
	a := &api{userAgent: options.UserAgent, insecure: options.Registry.Insecure}
	a.client = http.Client{Transport: options.Transport, CheckRedirect: a.follow}
	return a
}

// follow keeps redirects from leaving TLS.
func (a *api) follow(request *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", registry.ErrUnexpected, maxRedirects)
	}
	if insecure, err := a.insecure(request.URL.Host); request.URL.Scheme != "https" && !insecure {
		if err != nil {
			return err
		}
		return fmt.Errorf("redirected to %s, which %w", request.URL.Host, registry.ErrPlainHTTP)
	}
	return nil
}

// get returns the body of an answer. Its error is a *registry.Error, about the
// tags of the repository; any status but 2xx is one.
func (a *api) get(ctx context.Context, repository reference.Repository, target url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errSlow)
	defer cancel()
	response, err := a.send(ctx, target)
	if err != nil {
		return nil, named(repository, trouble(ctx, target.Host, err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerSize+1))
	if err != nil {
		return nil, named(repository, trouble(ctx, target.Host, err))
	}
	if response.StatusCode/100 != 2 {
		return nil, &registry.Error{
			Op:         registry.OpTags,
			Repository: repository,
			Status:     response.StatusCode,
			RetryAfter: retryafter.In(response.Header, time.Now()),
			Err:        refusal(target.Host, response.StatusCode, body),
		}
	}
	if len(body) > maxAnswerSize {
		return nil, named(repository, fmt.Errorf("%w: more than %d bytes from %s",
			registry.ErrTooLarge, maxAnswerSize, target.Host))
	}
	return body, nil
}

// send tries HTTPS, and plain HTTP after it where the host may speak that.
func (a *api) send(ctx context.Context, target url.URL) (*http.Response, error) {
	target.Scheme = "https"
	if _, plain := a.plain.Load(target.Host); plain {
		target.Scheme = "http"
	}
	response, err := a.once(ctx, target)
	if err == nil || target.Scheme == "http" || ctx.Err() != nil {
		return response, err
	}
	if insecure, unknown := a.insecure(target.Host); unknown != nil || !insecure {
		return response, err
	}
	target.Scheme = "http"
	response, plainErr := a.once(ctx, target)
	if plainErr != nil {
		return nil, err
	}
	a.plain.Store(target.Host, true)
	return response, nil
}

func (a *api) once(ctx context.Context, target url.URL) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", a.userAgent)
	return a.client.Do(request)
}

// trouble explains why there was no answer. What a proxy or a missing CA does to
// one host, another may not have: only the network is unavailable.
func trouble(ctx context.Context, host string, err error) error {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err // the rest is the URL
	}
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(context.Cause(ctx), errSlow):
		return fmt.Errorf("%w: %s: %w", registry.ErrUnavailable, host, errSlow)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%s %w; add it to INSECURE_REGISTRIES to allow that", host, registry.ErrPlainHTTP)
	case errors.Is(err, registry.ErrPlainHTTP), errors.Is(err, registry.ErrUnexpected):
		return err
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w: %s: %w", registry.ErrCertificate, host, untrusted.Err)
	default:
		return fmt.Errorf("%w: %w", registry.ErrUnavailable, err)
	}
}

// refusal explains an answer that is not a success, in the API's own words where
// it has some.
func refusal(host string, status int, body []byte) error {
	var answer struct {
		Message      string `json:"message"`       // Docker Hub
		ErrorMessage string `json:"error_message"` // Quay
	}
	err := fmt.Errorf("%w by %s", sentinelOf(status), host)
	if json.Unmarshal(body, &answer) != nil {
		return err // a page for people
	}
	if text := answer.Message + answer.ErrorMessage; text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

func sentinelOf(status int) error {
	switch {
	case status == http.StatusUnauthorized:
		return registry.ErrUnauthorized
	case status == http.StatusForbidden:
		return registry.ErrDenied
	case status == http.StatusNotFound:
		return registry.ErrNotFound
	case status == http.StatusTooManyRequests:
		return registry.ErrLimited
	case status == http.StatusRequestTimeout, status >= http.StatusInternalServerError:
		return registry.ErrUnavailable
	default:
		return registry.ErrRejected
	}
}
