package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

// aliveTimeout is how long a registry may take to say that it is there. It has nothing
// to look up for that.
const aliveTimeout = 15 * time.Second

// errSilent is the cause of a request's end when aliveTimeout has passed.
var errSilent = fmt.Errorf("no answer within %s: %w", aliveTimeout, context.DeadlineExceeded)

// Alive asks the registry of a repository whether it answers as one, and whether it
// takes our credentials: GET /v2/, and a token that is for no repository. Nothing of
// earlier answers is believed. An answer that may be none of a registry is one, unless
// it is to be sure. The error is an *Error about the registry as a whole.
func (c *Client) Alive(ctx context.Context, repository reference.Repository, sure bool) error {
	reach := call{op: OpReach, repository: repository, method: http.MethodGet, limit: maxErrorSize, instead: aReceipt}
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

func (s *sessions) alive(ctx context.Context, at location, reach call, sure bool) error {
	asked := &challenges{network: s.network, now: s.now, kept: make(map[string]challenge)}
	found, err := asked.of(ctx, at.registry)
	if failed := (*failure)(nil); errors.As(err, &failed) {
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
		return &failure{status: http.StatusUnauthorized, cause: fmt.Errorf("%w: it does not say how to log in", ErrUnauthorized)}
	}
	forgetful := &sessions{keychain: s.keychain, network: s.network, challenges: asked, now: s.now, kept: make(map[string]*session)}
	opened, _, err := forgetful.get(ctx, handshake{location: at}, false)
	if err == nil && opened.login.stage == presented && !opened.login.credential.Anonymous() {
		_, err = exchange(ctx, opened, at, reach)
	}
	known, failed := s.credential(ctx, handshake{location: at})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrDenied), errors.Is(err, ErrUnauthorized) && failed == nil && known.Anonymous():
		// That there is no token for nothing, or for strangers, says nothing of a repository.
		return nil
	}
	return err
}
