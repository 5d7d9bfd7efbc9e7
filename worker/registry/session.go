package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/osism/skopeo-worker/worker/containers"
)

// maxSessions bounds what a worker that runs for months remembers. A session holds a token of
// some kilobytes; a list has some hundreds of repositories.
const maxSessions = 1024

// settledFor is how long a refusal counts if a new session was refused, too: during that time,
// HEADs open no further session.
const settledFor = time.Minute

// Keychain finds credentials. containers.Keychain is one.
type Keychain interface {
	// Find returns the credentials of a repository, such as "quay.io/osism/osism", or an
	// anonymous credential if there are none.
	Find(ctx context.Context, repository string) (containers.Credential, error)
	// Forget makes the next Find look again.
	Forget(repository string)
}

// session sends requests that are authenticated for one action on one repository.
type session struct {
	http.Client
	login login
	basic bool       // the registry uses HTTP basic authentication
	renew time.Time  // when the token must be renewed; zero: when it is refused
	doubt *pageError // see challenge

	mu      sync.Mutex
	settled map[int]time.Time // refusals that a new session got, too, and until when they are believed

	checking          sync.Mutex
	checked, accepted bool // whether the registry accepts user and password
}

// sessions keeps the sessions of a client, so that a token serves many requests.
type sessions struct {
	keychain   Keychain
	network    http.RoundTripper
	challenges *challenges
	now        func() time.Time
	flight     singleflight.Group

	mu   sync.Mutex
	kept map[string]*session
}

// handshake identifies a session.
type handshake struct {
	location location
	scope    string // several are separated by spaces
}

func (h handshake) key() string { return h.location.registry.Name() + " " + h.scope }

// get returns a session and whether it was kept. If the registry refuses the credentials that
// the keychain remembers, get makes the keychain look again, unless that has just been done
// (asked).
func (s *sessions) get(ctx context.Context, h handshake, asked bool) (opened *session, kept bool, err error) {
	known, err := s.credential(ctx, h)
	if err != nil {
		// A helper may fail temporarily, or the file may just be being written.
		if found := s.good(h); found != nil && ctx.Err() == nil {
			return found, true, nil
		}
		return nil, false, err
	}
	opened, kept, err = s.with(ctx, h, known)
	if asked || refusedWith(err) == 0 {
		return opened, kept, err
	}
	s.keychain.Forget(h.location.credentialsOf())
	other, failed := s.credential(ctx, h)
	if failed != nil || other == known {
		return opened, kept, err
	}
	return s.with(ctx, h, other)
}

func (s *sessions) credential(ctx context.Context, h handshake) (containers.Credential, error) {
	known, err := s.keychain.Find(ctx, h.location.credentialsOf())
	if err != nil {
		return known, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return known, nil
}

// with returns a session with these credentials, and whether it was kept. Concurrent callers
// share one handshake, which continues if one of them is cancelled.
func (s *sessions) with(ctx context.Context, h handshake, known containers.Credential) (*session, bool, error) {
	if found := s.find(h, known); found != nil {
		return found, true, nil
	}
	flight := strings.Join([]string{h.key(), known.Username, known.Password, known.IdentityToken}, "\x00")
	result := s.flight.DoChan(flight, func() (any, error) {
		if found := s.find(h, known); found != nil {
			return found, nil
		}
		opened, err := s.open(context.WithoutCancel(ctx), h, known)
		if err != nil {
			return nil, err
		}
		s.keep(h, opened)
		return opened, nil
	})
	select {
	case <-ctx.Done():
		return nil, false, ctx.Err()
	case done := <-result:
		if done.Err != nil {
			return nil, false, done.Err
		}
		return done.Val.(*session), false, nil
	}
}

// open opens a session: it asks the registry how it authenticates and gets a token if one is
// needed.
func (s *sessions) open(ctx context.Context, h handshake, known containers.Credential) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, slow(requestTimeout))
	defer cancel()
	ctx, wait := withWait(h.location.with(ctx, false, ""))
	opened, err := s.handshake(ctx, h, known)
	if failed, ok := errors.AsType[*failure](err); ok {
		own := *failed // other sessions may have failed by the same ping
		own.retryAfter = time.Duration(wait.Load())
		return nil, &own
	}
	if err != nil {
		return nil, unanswered(ctx, h.location, wait, err)
	}
	return opened, nil
}

func (s *sessions) handshake(ctx context.Context, h handshake, known containers.Credential) (*session, error) {
	registry := h.location.registry
	asked, err := s.challenges.of(ctx, registry)
	if err != nil {
		return nil, err
	}
	opened := &session{login: login{known, presented}, doubt: asked.doubt, basic: strings.EqualFold(asked.Scheme, "basic"), settled: make(map[int]time.Time)}
	sender := &authorized{network: s.network, host: registry.RegistryStr(), scheme: "https"}
	if asked.Insecure {
		sender.scheme = "http"
	}
	switch {
	case strings.EqualFold(asked.Scheme, "bearer"):
		server, err := newTokenServer(s.network, registry.RegistryStr(), asked, s.now)
		if err != nil {
			return nil, err
		}
		token, err := server.token(ctx, known, h.scope)
		if err != nil {
			return nil, err
		}
		opened.renew, opened.login.stage = token.renew, granted
		sender.header = "Bearer " + token.value
	case known.Username != "" && known.Password != "":
		sender.header = basic(known)
	}
	opened.Client = http.Client{Transport: sender, CheckRedirect: checkRedirect}
	return opened, nil
}

// find returns a kept session that has not expired and was opened with these credentials, or
// nil.
func (s *sessions) find(h handshake, known containers.Credential) *session {
	if found := s.good(h); found != nil && found.login.credential == known {
		return found
	}
	return nil
}

// good returns a kept session that has not expired, or nil.
func (s *sessions) good(h handshake) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.kept[h.key()]
	if found == nil || !found.renew.IsZero() && !s.now().Before(found.renew) {
		return nil
	}
	return found
}

func (s *sessions) keep(h handshake, opened *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= maxSessions {
		clear(s.kept) // handshakes are cheap and this is rare, so no least-recently-used order is kept
	}
	s.kept[h.key()] = opened
}

// drop forgets a refused session, its credentials and its challenge. Each of them may be the
// reason for the refusal.
func (s *sessions) drop(h handshake, refused *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[h.key()] != refused {
		return // another request has dropped it
	}
	delete(s.kept, h.key())
	s.keychain.Forget(h.location.credentialsOf())
	s.challenges.forget(h.location.registry)
}

// settle notes that this session, which was new, got the same refusal as the one before it:
// the session is not the reason.
func (s *session) settle(status int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled[status] = now.Add(settledFor)
}

// isSettled reports whether settle was called with the status within the last minute.
func (s *session) isSettled(status int, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Before(s.settled[status])
}

// authorized sends a session's requests. It authenticates only those to the registry itself,
// not those to hosts that it redirects to. It also sets the scheme that the registry speaks,
// because registries behind a proxy often write links with the wrong one.
type authorized struct {
	network http.RoundTripper
	host    string
	scheme  string
	header  string // Authorization; "" is none
}

func (a *authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	ours := request.URL.Host == a.host || withPort(request.URL.Host, a.scheme) == withPort(a.host, a.scheme)
	if ours && (a.header != "" || request.URL.Scheme != a.scheme) {
		request = request.Clone(request.Context())
		request.URL.Scheme = a.scheme
		if a.header != "" {
			request.Header.Set("Authorization", a.header)
		}
	}
	return a.network.RoundTrip(request)
}

func basic(known containers.Credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(known.Username+":"+known.Password))
}

// withPort returns the host with its port, so that equal servers compare equal.
func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "443"
	if scheme == "http" {
		port = "80"
	}
	return host + ":" + port
}

// rememberFor is how long a client believes what it has learnt about a registry: an upgrade
// can change it.
const rememberFor = time.Hour

// memory keeps which registries behave in a certain way.
type memory struct {
	now func() time.Time

	mu    sync.Mutex
	known map[string]time.Time // by host, when it was noticed
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, known: make(map[string]time.Time)}
}

func (m *memory) isKnown(host string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, known := m.known[host]
	return known && m.now().Sub(since) < rememberFor
}

func (m *memory) note(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[host] = m.now()
}

// scopes returns the scopes of a call, separated by spaces. A call to a destination requests
// the scope to push as well; one that mounts a blob, also the scope to pull from the blob's
// repository.
func (c *Client) scopes(at location, call *call) string {
	action := call.scope
	if action == catalogScope {
		return catalogScope
	}
	if c.role == destination {
		action = pushScope
	}
	scope := at.repository.Scope(action)
	if call.mount.IsZero() {
		return scope
	}
	from, err := c.locate(call.mount)
	if err != nil {
		return scope
	}
	return scope + " " + from.repository.Scope(transport.PullScope)
}

// session returns a session for a call. If the token server refuses the scope to push, reads
// use a session without it.
func (c *Client) session(ctx context.Context, at location, call *call, asked bool) (handshake, *session, bool, error) {
	h := handshake{location: at, scope: c.scopes(at, call)}
	looks := c.role == destination && call.looks()
	if looks && c.noPush.isKnown(h.key()) {
		h.scope = at.repository.Scope(transport.PullScope)
	}
	opened, kept, err := c.sessions.get(ctx, h, asked)
	if looks && refusedWith(err) != 0 {
		pull := handshake{location: at, scope: at.repository.Scope(transport.PullScope)}
		if opened, kept, failed := c.sessions.get(ctx, pull, true); failed == nil {
			c.noPush.note(h.key())
			return pull, opened, kept, nil
		}
	}
	return h, opened, kept, err
}

// explainRefusal returns the meaning of a refusal that a new session got, too. If a
// destination refuses a read although the credentials are right, the repository may not exist:
// the error is then errHidden.
func (c *Client) explainRefusal(ctx context.Context, session *session, at location, call *call, refusal error) error {
	if c.role == source || !call.looks() {
		return refusal
	}
	if session.basic {
		if accepted, err := session.accepts(ctx, at); err != nil || !accepted {
			return cmp.Or(err, refusal)
		}
	}
	failed := *refusal.(*failure) //nolint:errorlint // exchange returns no other type with a status
	failed.cause = &hiddenError{failed.cause}
	return &failed
}

// accepts reports whether a registry with basic authentication accepts the session's user and
// password. It asks once.
func (s *session) accepts(ctx context.Context, at location) (bool, error) {
	s.checking.Lock()
	defer s.checking.Unlock()
	if s.checked {
		return s.accepted, nil
	}
	root := &url.URL{Scheme: "https", Host: at.registry.RegistryStr(), Path: "/v2/"}
	_, err := exchange(ctx, s, at, &call{method: http.MethodGet, url: root, limit: maxErrorSize, instead: aReceipt})
	switch {
	case err == nil, statusOf(err) == http.StatusNotFound:
		s.accepted = true
	case refusedWith(err) == 0:
		return false, err
	}
	s.checked = true
	return s.accepted, nil
}
