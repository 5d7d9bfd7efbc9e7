package registry

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// pushScope is what a destination is asked for, in the words of skopeo.
const pushScope = "pull,push"

// role is what a client's registries are to it.
type role int

const (
	source      role = iota // read from
	destination             // written to
	candidate               // only compared with: nothing may be made there
)

// Writing returns the client for registries that are written to, with the same
// connections. It asks them for the permission to push with every request: some, such as
// Quay, make a repository for who may push, and do not let others see that it is
// missing. Where a look is refused nevertheless, the error is ErrHidden.
func (c *Client) Writing() *Client { return c.as(destination) }

// Comparing returns the client for registries that others write to, with the same
// connections. Where a look is refused, the error is ErrHidden.
func (c *Client) Comparing() *Client { return c.as(candidate) }

func (c *Client) as(role role) *Client {
	other := *c
	other.role = role
	return &other
}

// Absent reports whether an error of a look says that there is nothing, or, at a
// destination, that there may be nothing: then a push decides.
func Absent(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrHidden) }

// hiddenError is the refusal of a look at what may not exist. It wraps ErrHidden and the
// refusal.
type hiddenError struct{ refusal error }

func (e *hiddenError) Error() string   { return e.refusal.Error() }
func (e *hiddenError) Unwrap() []error { return []error{ErrHidden, e.refusal} }

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
