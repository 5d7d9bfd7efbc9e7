package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"
)

// maxSessions bounds what a worker that lives for months remembers. A session
// is a token of some kilobytes; a list has some hundreds of repositories.
const maxSessions = 1024

// session sends requests with the token for one action on one repository.
type session struct{ http.Client }

// sessions keeps the sessions of a client, so that a token is fetched once and
// not for each request.
type sessions struct {
	keychain authn.Keychain
	inner    http.RoundTripper
	flight   singleflight.Group

	mu   sync.Mutex
	kept map[string]*session
}

// handshake is a session's key and what it takes to open it.
type handshake struct {
	location location
	scope    string
}

func (h handshake) key() string { return h.location.registry.Name() + " " + h.scope }

// get returns a session and whether it was there before. Callers that ask for
// the same one at the same time share one handshake, which goes on when one of
// them leaves.
func (s *sessions) get(ctx context.Context, h handshake) (*session, bool, error) {
	key := h.key()
	if found := s.find(key); found != nil {
		return found, true, nil
	}
	result := s.flight.DoChan(key, func() (any, error) {
		if found := s.find(key); found != nil {
			return found, nil
		}
		opened, err := s.open(context.WithoutCancel(ctx), h)
		if err != nil {
			return nil, err
		}
		s.keep(key, opened)
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

// open asks the registry how it authenticates, finds the credentials, and gets
// a token.
func (s *sessions) open(ctx context.Context, h handshake) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errSlow)
	defer cancel()
	ctx, wait := withWait(ctx)
	credentials, err := authn.Resolve(ctx, s.keychain, h.location.repository)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	authenticated, err := transport.NewWithContext(ctx, h.location.registry, credentials, s.inner, []string{h.scope})
	if err != nil {
		return nil, unanswered(ctx, h.location, wait, overHTTPS(err))
	}
	return &session{http.Client{Transport: authenticated}}, nil
}

// overHTTPS returns what went wrong over HTTPS, where go-containerregistry has
// also tried plain HTTP and the guard has refused that.
func overHTTPS(err error) error {
	if !errors.Is(err, ErrPlainHTTP) {
		return err
	}
	var refused *transport.Error
	if errors.As(err, &refused) {
		return refused
	}
	var first *url.Error // of the two attempts, HTTPS comes first
	if errors.As(err, &first) {
		return first
	}
	return err
}

func (s *sessions) find(key string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[key]
}

func (s *sessions) keep(key string, opened *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= maxSessions {
		clear(s.kept) // rare, and a handshake is cheap: not worth an order of use
	}
	s.kept[key] = opened
}

// drop forgets a session whose token or credentials are no longer taken.
func (s *sessions) drop(key string, refused *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[key] == refused {
		delete(s.kept, key)
	}
}
