package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"

	"github.com/osism/skopeo-worker/shared/reference"
)

// challengeFor is how long a challenge is valid.
const challengeFor = time.Hour

// aChallenge names the answer to a ping in a pageError.
const aChallenge = "an API version check"

// challenges asks registries how they authenticate clients. It keeps the answers, because they hardly
// ever change and each token request needs one.
type challenges struct {
	network http.RoundTripper
	now     func() time.Time
	flight  singleflight.Group

	mu   sync.Mutex
	kept map[string]challenge // by registry
}

// challenge is how a registry authenticates.
type challenge struct {
	transport.Challenge
	until time.Time
	// doubt is set if the registry has requested no credentials and has not identified itself as a
	// registry. Other servers answer like that, too.
	doubt      *pageError
	mute       bool // the registry has answered 401 without a challenge
	signatures bool // the registry stores signatures
}

// of returns a registry's challenge. If none is kept, it sends GET /v2/. Concurrent callers
// share one request, which continues if one of them is cancelled.
func (c *challenges) of(ctx context.Context, registry name.Registry) (challenge, error) {
	if known, ok := c.find(registry); ok {
		return known, nil
	}
	result := c.flight.DoChan(registry.Scheme()+" "+registry.Name(), func() (any, error) {
		if known, ok := c.find(registry); ok {
			return asked{challenge: known}, nil
		}
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), requestTimeout, slow(requestTimeout))
		defer cancel()
		ctx, wait := withWait(ctx)
		found, err := c.ask(ctx, registry)
		return asked{found, wait.Load()}, err
	})
	select {
	case <-ctx.Done():
		return challenge{}, context.Cause(ctx)
	case done := <-result:
		got, _ := done.Val.(asked)
		noteWait(ctx, got.wait)
		return got.challenge, done.Err
	}
}

// asked is the answer of a registry to GET /v2/.
type asked struct {
	challenge challenge
	wait      int64 // as of withWait
}

// find returns a registry's challenge if it is kept.
func (c *challenges) find(registry name.Registry) (challenge, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.kept[registry.Name()]
	return known, ok && c.now().Before(known.until)
}

// ask sends GET /v2/.
func (c *challenges) ask(ctx context.Context, registry name.Registry) (challenge, error) {
	ping := &pinging{network: c.network, failed: make(map[string]error)}
	found, err := transport.Ping(ctx, registry, ping)
	ping.mu.Lock() // another scheme may still be tried
	defer ping.mu.Unlock()
	if err != nil {
		err = ping.failure(err)
		if refused, ok := errors.AsType[*transport.Error](err); ok {
			return challenge{}, pingRefusal(registry.RegistryStr(), refused)
		}
		return challenge{}, err
	}
	known := challenge{Challenge: *found, until: c.now().Add(challengeFor), doubt: ping.doubt, mute: ping.mute, signatures: ping.signatures}
	if known.doubt == nil {
		c.mu.Lock()
		c.kept[registry.Name()] = known
		c.mu.Unlock()
	}
	return known, nil
}

// forget removes a registry's challenge.
func (c *challenges) forget(registry name.Registry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kept, registry.Name())
}

// pinging records the answers to a ping over HTTPS and plain HTTP.
type pinging struct {
	network http.RoundTripper

	mu         sync.Mutex
	doubt      *pageError
	mute       bool
	signatures bool
	redirected bool             // the last answer over plain HTTP was a redirect
	failed     map[string]error // by scheme
}

// failure returns why a ping has failed. If both schemes were tried, it returns the failure over
// HTTPS, unless the server does not speak TLS and plain HTTP is allowed.
func (p *pinging) failure(err error) error {
	if refused, ok := errors.AsType[*transport.Error](err); ok {
		return refused
	}
	https, http := p.failed["https"], p.failed["http"]
	switch {
	case speaksHTTP(https) && p.redirected:
		return fmt.Errorf("%w: GET /v2/ is redirected endlessly", ErrUnexpected)
	case https == nil || http != nil && !speaksTLS(https) && !errors.Is(http, ErrPlainHTTP):
		https = http
	}
	return cmp.Or(https, err)
}

// speaksTLS reports whether a server may speak TLS, according to an error. Servers that do not may
// answer a handshake with HTTP, a page, or the greeting of another protocol.
func speaksTLS(err error) bool {
	var record tls.RecordHeaderError
	return !speaksHTTP(err) && !errors.As(err, &record)
}

// speaksHTTP reports whether a server answered HTTPS in plain HTTP, according to the errors of
// net/http's Transport and Client.
func speaksHTTP(err error) bool {
	var record tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/"
}

func (p *pinging) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := p.look(request)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.signatures = response.Header.Get(signaturesHeader) == "1"
	}
	if err != nil {
		p.failed[request.URL.Scheme] = err
	}
	if request.URL.Scheme == "http" {
		p.redirected = err == nil && response.StatusCode/100 == 3
	}
	return response, err
}

// look sends a ping and examines the answer.
func (p *pinging) look(request *http.Request) (*http.Response, error) {
	response, err := p.network.RoundTrip(request)
	if err == nil && response.StatusCode == http.StatusUnauthorized && response.Header.Get("WWW-Authenticate") == "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.mute = true
	}
	if err != nil || response.StatusCode/100 != 2 {
		return response, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxErrorSize))
	response.Body.Close()
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	page := &pageError{response.StatusCode, cmp.Or(notJSON(body), anotherKind), aChallenge}
	if isMarkup(body) || response.StatusCode != http.StatusOK {
		return nil, page
	}
	if response.Header.Get("Docker-Distribution-API-Version") == "" && string(bytes.TrimSpace(body)) != "{}" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.doubt = page
	}
	return response, nil
}

// aliveTimeout is how long a registry may take to answer GET /v2/, which needs no look-up.
const aliveTimeout = 15 * time.Second

// errSilent is the cause of the context when aliveTimeout has passed.
var errSilent = fmt.Errorf("no answer within %s: %w", aliveTimeout, context.DeadlineExceeded)

// Alive returns nil if the registry of a repository answers and accepts the credentials. It sends GET
// /v2/ and requests a token without a scope; it does not use earlier answers. If sure is true, the
// answer must identify a registry. The error is an *Error about the whole registry.
func (c *Client) Alive(ctx context.Context, repository reference.Repository, sure bool) error {
	reach := &call{op: OpReach, repository: repository, method: http.MethodGet, limit: maxErrorSize, instead: aReceipt}
	at, err := c.locate(repository)
	if err != nil {
		return reach.fail(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, aliveTimeout, errSilent)
	defer cancel()
	reach.url = &url.URL{Scheme: "https", Host: at.registry.RegistryStr(), Path: "/v2/"}
	err = c.sessions.alive(ctx, at, reach, sure)
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errSilent):
		err = fmt.Errorf("%w: %w", ErrUnavailable, errSilent)
	}
	return reach.fail(err)
}

func (s *sessions) alive(ctx context.Context, at location, reach *call, sure bool) error {
	fresh := &challenges{network: s.network, now: s.now, kept: make(map[string]challenge)}
	found, err := fresh.ask(ctx, at.registry)
	if errors.As(err, new(*failure)) {
		return err
	}
	if err != nil {
		ctx, wait := withWait(ctx)
		return unanswered(ctx, at, wait, err)
	}
	if found.doubt != nil && sure {
		return found.doubt
	}
	if found.mute {
		return &failure{status: http.StatusUnauthorized, cause: fmt.Errorf("%w: the registry does not say how to log in", ErrUnauthorized)}
	}
	temporary := &sessions{keychain: s.keychain, network: s.network, challenges: fresh, now: s.now, kept: make(map[string]*session)}
	opened, _, err := temporary.get(ctx, handshake{location: at}, false)
	if err == nil && opened.login.stage == presented && !opened.login.credential.Anonymous() {
		_, err = exchange(ctx, opened, at, reach)
	}
	known, failed := s.credential(ctx, handshake{location: at})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrDenied), errors.Is(err, ErrUnauthorized) && failed == nil && known.Anonymous():
		// A registry may refuse a token without a scope, or for anonymous clients, and yet give
		// one for a repository.
		return nil
	}
	return err
}

// signaturesHeader is 1 in the answer to GET /v2/ if a registry stores signatures, as OpenShift's does
// (docs/signature-protocols.md of containers/image).
const signaturesHeader = "X-Registry-Supports-Signatures"

// maxSignaturesSize is how much of a list of signatures containers/image reads.
const maxSignaturesSize = 4 << 20

// StoresSignatures reports whether the registry of a repository stores signatures itself. It sends a
// request at most once an hour.
func (c *Client) StoresSignatures(ctx context.Context, repository reference.Repository) (bool, error) {
	ask := &call{op: OpReach, repository: repository}
	at, err := c.locate(repository)
	if err != nil {
		return false, ask.fail(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, slow(requestTimeout))
	defer cancel()
	ctx, wait := withWait(at.with(ctx, false, ""))
	found, err := c.sessions.challenges.of(ctx, at.registry)
	switch {
	case err == nil:
		return found.signatures, nil
	case statusOf(err) == 0:
		err = unanswered(ctx, at, wait, err)
	}
	return false, ask.fail(err)
}

// Signatures returns the JSON list of the signatures that a registry stores for a digest. Call it only
// if StoresSignatures is true.
func (c *Client) Signatures(ctx context.Context, repository reference.Repository, digest reference.Digest) ([]byte, error) {
	get := &call{
		op: OpGet, repository: repository, reference: digest, method: http.MethodGet,
		scope: transport.PullScope, accept: "application/json", limit: maxSignaturesSize,
	}
	at, err := c.locate(repository)
	if err != nil {
		return nil, get.fail(err)
	}
	get.url = &url.URL{Scheme: "https", Host: at.registry.RegistryStr(), Path: "/extensions/v2/" + at.path() + "/signatures/" + digest.String()}
	got, err := c.send(ctx, get)
	return got.body, err
}
