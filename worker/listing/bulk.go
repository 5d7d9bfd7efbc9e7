package listing

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/retryafter"
)

// tagsPerPage is the most that both quay.io and Docker Hub give in an answer.
const tagsPerPage = 100

// bulk lists with an API that tells of many tags at once, and hands over to the
// OCI API where that one does not answer.
type bulk struct {
	api *api
	oci *OCI
	log *slog.Logger

	told sync.Map // of complaint
}

// complaint is what is said once: the cause, and whether it came with the first
// page or with a later one, which concerns repositories of many tags only.
type complaint struct {
	registry string
	status   int   // of an answer
	cause    error // of causes, without one
	later    bool
}

// causes are why an API cannot be used that did not refuse us.
var causes = []error{
	registry.ErrUnexpected, registry.ErrPage, registry.ErrPagination, registry.ErrTooLarge, registry.ErrPlainHTTP,
	registry.ErrCertificate, registry.ErrUnavailable,
}

// errNameless is why an answer is none: names are what a listing is for.
var errNameless = errors.New("a tag without a name in the answer")

// page is one answer.
type page struct {
	tags  []found
	items int  // tags, those that are left out included
	more  bool // there is another page, or the answer does not tell
	// content is the answer without the number of its page.
	content string
}

// maxItems is how many tags an answer may have, and images a tag.
const maxItems = 10 * tagsPerPage

// readEntries reads the entries of a page. Of one that can't be read but for its name, a
// HEAD finds out the rest. It is nil where there is no list.
func readEntries[T any](list json.RawMessage, named func(name string) T) ([]T, error) {
	raw, err := registry.ReadList[json.RawMessage](list, maxItems)
	if err != nil || raw == nil {
		return nil, err
	}
	entries := make([]T, len(raw))
	for i, text := range raw {
		if json.Unmarshal(text, &entries[i]) == nil {
			continue
		}
		var only struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(text, &only); err != nil {
			return nil, err
		}
		entries[i] = named(only.Name)
	}
	return entries, nil
}

// found is a tag on a page, with the name as it was sent.
type found struct {
	Tag
	name string
}

// source is one bulk API.
type source struct {
	// target is the URL of a page, counted from 1.
	target func(repository reference.Repository, page int) url.URL
	// read reads an answer. Its error says why it is none of this API.
	read func(body []byte) (page, error)
	// notFoundEnds says that a page past the end is answered with 404.
	notFoundEnds bool
	// elsewhere says that the API has another host than the registry: one may be
	// closed off where the other is not.
	elsewhere bool
}

// tags lists with a source. Being limited and a server in trouble end the
// listing, because they pass. After any other failure the OCI API has the last
// word on the repository.
func (b *bulk) tags(ctx context.Context, repository reference.Repository, from source) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		if err := b.oci.Registry.Allowed(repository); err != nil {
			yield(Tag{}, named(repository, err))
			return
		}
		seen := names{}
		for tag, err := range b.pages(ctx, repository, from) {
			invalid := (*registry.TagError)(nil)
			switch {
			case err == nil:
				if seen.add(tag.Name) && !yield(tag, nil) {
					return
				}
			case errors.As(err, &invalid):
				if !yield(Tag{}, err) {
					return
				}
			case from.ends(err, len(seen) > 0):
				yield(Tag{}, err)
				return
			default:
				b.complain(repository, err, len(seen) > 0)
				b.oci.rest(ctx, repository, seen)(yield)
				return
			}
		}
	}
}

// ends says whether a failure is not to be mended by the OCI API.
func (s source) ends(err error, later bool) bool {
	if errors.Is(err, registry.ErrUnavailable) {
		return later || !s.elsewhere || statusOf(err) != 0
	}
	return errors.Is(err, registry.ErrLimited) || errors.Is(err, registry.ErrTooMany) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// turn reads the next page. Its error wraps one of the package registry.
func (s source) turn(body []byte, turned *registry.Pages) (page, error) {
	found, err := s.read(body)
	if err != nil {
		return page{}, fmt.Errorf("%w: %s", registry.ErrUnexpected, err.Error())
	}
	if err := turned.Has(found.items); err != nil {
		return page{}, err
	}
	if found.items == 0 {
		return found, nil
	}
	return found, turned.Holds(found.content)
}

// pages yields the tags of all pages as they are, an error last.
func (b *bulk) pages(ctx context.Context, repository reference.Repository, from source) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		var turned registry.Pages
		for n := 1; ; n++ {
			if err := turned.At(""); err != nil {
				yield(Tag{}, named(repository, err))
				return
			}
			target := from.target(repository, n)
			body, err := b.api.get(ctx, repository, target)
			if n > 1 && from.notFoundEnds && errors.Is(err, registry.ErrNotFound) {
				return // tags were deleted since the page before announced this one
			}
			if err != nil {
				yield(Tag{}, err)
				return
			}
			if err := registry.Page(http.StatusOK, body, "a page of tags"); err != nil {
				yield(Tag{}, named(repository, fmt.Errorf("%s %w", target.Host, err)))
				return
			}
			found, err := from.turn(body, &turned)
			if err != nil {
				yield(Tag{}, named(repository, err))
				return
			}
			for _, listed := range found.tags {
				var err error
				if listed.Name, err = registry.ParseTag(listed.name); !yield(listed.Tag, err) {
					return
				}
			}
			if !found.more {
				return
			}
		}
	}
}

// complain says that a bulk API cannot be used, once for each cause: a list has
// hundreds of repositories.
func (b *bulk) complain(repository reference.Repository, err error, later bool) {
	said := complaint{registry: repository.Registry(), status: statusOf(err), later: later}
	if i := slices.IndexFunc(causes, func(cause error) bool { return errors.Is(err, cause) }); i >= 0 {
		said.cause = causes[i]
	}
	if _, known := b.told.LoadOrStore(said, true); known {
		return
	}
	b.log.Warn("the bulk tag listing cannot be used; listing with the OCI API, which takes a request a tag",
		"registry", repository.Registry(), "later_page", later, "cause", err)
}

// statusOf is 0 where there was no answer.
func statusOf(err error) int {
	if failed := (*registry.Error)(nil); errors.As(err, &failed) {
		return failed.Status
	}
	return 0
}

// named is an error about a repository as a whole.
func named(repository reference.Repository, err error) *registry.Error {
	return &registry.Error{Op: registry.OpTags, Repository: repository, Err: err}
}

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
