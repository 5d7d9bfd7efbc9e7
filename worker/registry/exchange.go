package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// looks reports whether the call only reads.
func (call *call) looks() bool {
	return call.method == http.MethodGet || call.method == http.MethodHead
}

// exchange sends a request and reads the answer.
func exchange(ctx context.Context, session *session, at location, call *call) (answer, error) {
	ctx, end := call.bounded(ctx)
	defer func() {
		if end != nil {
			end()
		}
	}()
	ctx, wait := withWait(at.with(ctx, call.apart, call.own(at)))
	request, err := call.request(ctx, at)
	if err != nil {
		return answer{}, err
	}
	response, err := call.do(session, at, request)
	if errors.Is(err, ErrRedirected) {
		return answer{}, err
	}
	if err != nil {
		return answer{}, unanswered(ctx, at, wait, err)
	}
	got := answer{status: response.StatusCode, header: response.Header, size: response.ContentLength, url: response.Request.URL}
	if call.opens && response.StatusCode/100 == 2 {
		got.opened = &opened{body: response.Body, status: got.status, call: call, at: at, ctx: ctx, end: end}
		end = nil
		return got, nil
	}
	defer response.Body.Close()
	if response.StatusCode/100 == 3 {
		return answer{}, &pageError{response.StatusCode, "a redirect without a target", call.instead}
	}
	if response.StatusCode/100 == 2 && response.Request.Method != call.method {
		// A redirect that turns a PUT into a GET does not store anything.
		return answer{}, &pageError{got.status, "a redirect to " + response.Request.URL.Host, call.instead}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, call.limit+1))
	if err != nil {
		return answer{}, unanswered(ctx, at, wait, err)
	}
	if response.StatusCode/100 != 2 {
		failed := &failure{
			status:     response.StatusCode,
			retryAfter: time.Duration(wait.Load()),
			cause:      refusal(response.StatusCode, diagnose(body), session.login),
		}
		if host := response.Request.URL.Host; host != request.URL.Host && refusedWith(failed) != 0 {
			failed.cause = fmt.Errorf("%w: %s refused the request that the registry has redirected to it", errStorage, host)
			if why := diagnose(body).Message; why != "" {
				failed.cause = fmt.Errorf("%w: %s", failed.cause, why)
			}
		}
		return answer{}, failed
	}
	if int64(len(body)) > call.limit && (call.instead == aBlob || !isMarkup(body)) {
		return answer{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, call.limit)
	}
	got.body = body
	if came := call.page(got); came != "" {
		return answer{}, &pageError{got.status, came, call.instead}
	}
	return got, nil
}

// do sends a request. If a part of a blob is redirected before it was read, it goes to the target;
// otherwise the error is a redirectedError.
func (call *call) do(session *session, at location, request *http.Request) (*http.Response, error) {
	for range maxRedirects + 1 {
		stream, _ := request.Body.(*once)
		response, err := session.Do(request)
		if err != nil {
			return nil, err
		}
		target, err := call.redirected(at, response)
		if target == nil && err == nil {
			return response, nil
		}
		unread := stream.revoke()
		call.moved = true
		response.Body.Close()
		switch {
		case err != nil:
			return nil, err
		case !unread:
			return nil, &redirectedError{target}
		}
		request = request.Clone(request.Context())
		request.URL, request.Host, request.Body = target, "", &once{stream: call.stream}
	}
	return nil, tooManyRedirects(http.StatusTemporaryRedirect)
}

// bounded returns a context with the time limit of a request, and a function that ends it.
func (call *call) bounded(ctx context.Context) (context.Context, func()) {
	within := requestTimeout
	if call.large {
		within = call.within
	}
	if within <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, within, slow(within))
}

// page describes an answer that is not of the expected kind. It returns "" if it is.
func (call *call) page(got answer) string {
	switch {
	case call.method == http.MethodHead:
		return "" // no body
	case call.instead == aReceipt && isMarkup(got.body):
		return markup(got.body)
	case call.instead == aReceipt, call.instead == aBlob:
		return ""
	case call.instead == aTagArray:
		return notJSONOf('[', got.body)
	}
	return notJSON(got.body)
}

func (call *call) request(ctx context.Context, at location) (*http.Request, error) {
	target := call.url
	if target == nil {
		path, err := call.target(at)
		if err != nil {
			return nil, err
		}
		target = &url.URL{
			Scheme:   "https", // the session replaces it if the registry speaks plain HTTP
			Host:     at.registry.RegistryStr(),
			Path:     path,
			RawQuery: call.query,
		}
	}
	var body io.Reader
	switch {
	case call.stream != nil:
		body = &once{stream: call.stream}
	case len(call.body) > 0:
		body = bytes.NewReader(call.body)
	}
	request, err := http.NewRequestWithContext(ctx, call.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrName, err)
	}
	if call.stream != nil {
		call.describe(request)
	}
	if call.opens {
		// A registry's storage may declare a layer as compressed, and net/http would then
		// decompress it.
		request.Header.Set("Accept-Encoding", "identity")
	}
	switch {
	case call.before > 0:
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", call.from, call.before-1))
	case call.from > 0:
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", call.from))
	}
	if call.accept != "" {
		request.Header.Set("Accept", call.accept)
	}
	if call.contentType != "" {
		request.Header.Set("Content-Type", call.contentType)
	}
	return request, nil
}

// describe sets the headers of a part of a blob.
func (call *call) describe(request *http.Request) {
	request.ContentLength = call.size
	if call.asks {
		request.Header.Set("Expect", "100-continue")
	}
	if (call.offset > 0 || call.ranged) && call.size > 0 {
		request.Header.Set("Content-Range", fmt.Sprintf("%d-%d", call.offset, call.offset+call.size-1))
	}
}

// unanswered returns the failure of a request without an answer.
func unanswered(ctx context.Context, at location, wait *atomic.Int64, err error) error {
	return &failure{retryAfter: time.Duration(wait.Load()), cause: trouble(ctx, at.registry.RegistryStr(), err)}
}
