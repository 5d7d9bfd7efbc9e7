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

// maxSessions bounds what a worker that lives for months remembers. A session
// is a token of some kilobytes; a list has some hundreds of repositories.
const maxSessions = 1024

// settledFor is how long a look that a new session was refused, too, is not repeated
// with yet another session.
const settledFor = time.Minute

// Keychain finds credentials; containers.Keychain is one.
type Keychain interface {
	// Find returns the credentials of a repository, "quay.io/osism/osism"; those of
	// nobody where there are none.
	Find(ctx context.Context, repository string) (containers.Credential, error)
	// Forget makes Find look again.
	Forget(repository string)
}

// session sends requests with what one registry wants for one action on one repository.
type session struct {
	http.Client
	login login
	basic bool       // the registry wants a user and a password with each request
	renew time.Time  // when it is to be opened again; zero: when it is refused
	doubt *pageError // instead of a challenge

	mu      sync.Mutex
	settled map[int]time.Time // statuses that a new session got, too

	asking          sync.Mutex
	answered, right bool // whether user and password are taken
}

// sessions keeps the sessions of a client, so that a token is fetched once and
// not for each request.
type sessions struct {
	keychain   Keychain
	network    http.RoundTripper
	challenges *challenges
	now        func() time.Time
	flight     singleflight.Group

	mu   sync.Mutex
	kept map[string]*session
}

// handshake is a session's key and what it takes to open it.
type handshake struct {
	location location
	scope    string // several have spaces between them
}

func (h handshake) key() string { return h.location.registry.Name() + " " + h.scope }

// get returns a session and whether it was there before. Where the credentials are
// refused that the keychain remembers, it is asked again, unless it has just been.
func (s *sessions) get(ctx context.Context, h handshake, asked bool) (opened *session, kept bool, err error) {
	known, err := s.credential(ctx, h)
	if err != nil {
		// A helper may fail for a while, or somebody writes the file just now.
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

// with returns a session with these credentials, and whether it was there before.
// Callers that ask for the same one at the same time share one handshake, which goes
// on when one of them leaves.
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

// open asks the registry how it authenticates, and gets a token where it wants one.
func (s *sessions) open(ctx context.Context, h handshake, known containers.Credential) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, slow(requestTimeout))
	defer cancel()
	ctx, wait := withWait(h.location.with(ctx))
	opened, err := s.handshake(ctx, h, known)
	if failed := (*failure)(nil); errors.As(err, &failed) {
		failed.retryAfter = time.Duration(wait.Load())
		return nil, err
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
	opened.Client = http.Client{Transport: sender}
	return opened, nil
}

// find returns a session that is still good, and was opened with these credentials.
func (s *sessions) find(h handshake, known containers.Credential) *session {
	if found := s.good(h); found != nil && found.login.credential == known {
		return found
	}
	return nil
}

// good returns a session that has not ended as far as we know.
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
		clear(s.kept) // rare, and a handshake is cheap: not worth an order of use
	}
	s.kept[h.key()] = opened
}

// drop forgets a session that was refused, and where it came from: its token or its
// credentials may have ended, and what asked for none may have been no registry.
func (s *sessions) drop(h handshake, refused *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[h.key()] != refused {
		return // somebody else has
	}
	delete(s.kept, h.key())
	s.keychain.Forget(h.location.credentialsOf())
	s.challenges.forget(h.location.registry)
}

// settle notes that the session, which was new, was refused like the one before: it is
// not the session.
func (s *session) settle(status int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled[status] = now.Add(settledFor)
}

// isSettled reports whether that was found out not long ago.
func (s *session) isSettled(status int, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Before(s.settled[status])
}

// authorized sends a session's requests. What authenticates them goes to the registry
// itself only, not to where that redirects; and so does the scheme that the registry
// was found to speak, which links of a registry behind a proxy often have wrong.
type authorized struct {
	network http.RoundTripper
	host    string
	scheme  string
	header  string // Authorization; empty: none
}

func (a *authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	if withPort(request.URL.Host, a.scheme) == withPort(a.host, a.scheme) {
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

// withPort writes out a host's port, so that those of one server are equal.
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

// rememberFor is how long a habit of a registry is believed: a worker lives for months,
// and an upgrade can change it.
const rememberFor = time.Hour

// memory keeps which registries have a habit.
type memory struct {
	now func() time.Time

	mu    sync.Mutex
	known map[string]time.Time // by host, when it was found out
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

// scopes are the scopes of a call, with spaces between them. A registry that is not only
// read from is asked for more than the call needs; one that takes a blob from another of
// its repositories, for that one, too.
func (c *Client) scopes(at location, call call) string {
	action := call.scope
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

// session returns a session for a call. A token server may refuse to let somebody push
// who may well look.
func (c *Client) session(ctx context.Context, at location, call call, asked bool) (handshake, *session, bool, error) {
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

// seen returns what a refusal means that a new session got, too. At a destination, a
// look that is refused although we are who we say is one at what may not exist.
func (c *Client) seen(ctx context.Context, session *session, at location, call call, refusal error) error {
	if c.role == source || !call.looks() {
		return refusal
	}
	if session.basic {
		if taken, err := session.taken(ctx, at); err != nil || !taken {
			return cmp.Or(err, refusal)
		}
	}
	failed := *refusal.(*failure) //nolint:errorlint // what exchange returns is one
	failed.cause = &hiddenError{failed.cause}
	return &failed
}

// taken asks a registry that wants a user and a password whether it takes ours; once,
// for as long as the session lives.
func (s *session) taken(ctx context.Context, at location) (bool, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if s.answered {
		return s.right, nil
	}
	root := &url.URL{Scheme: "https", Host: at.registry.RegistryStr(), Path: "/v2/"}
	_, err := exchange(ctx, s, at, call{method: http.MethodGet, url: root, limit: maxErrorSize, instead: aReceipt})
	failed := (*failure)(nil)
	switch {
	case err == nil, errors.As(err, &failed) && failed.status == http.StatusNotFound:
		s.right = true
	case refusedWith(err) == 0:
		return false, err
	}
	s.answered = true
	return s.right, nil
}
