// Package throttle keeps a worker's requests and skopeo processes within the limits that
// registries set for the fleet.
package throttle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptrace"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/retryafter"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Throttle takes a token of the fleet's budget for each request that a registry limits.
type Throttle struct {
	Budget *budget.Store
	// Identity returns the user name under which a registry counts pulls, or "" if it counts them
	// by IP address. If nil, all registries count by address.
	Identity func(registry string) string
	Log      *slog.Logger
	// Observe is called after each request that was sent. If no answer came, status is 0. It is
	// optional.
	Observe func(registry string, kind budget.Kind, status int)

	destinations sync.Map // names of registries that are written to
}

// Destination records that the worker writes to a registry. Such a registry is the operator's own:
// unless it states a limit, reading its manifests takes no tokens.
func (t *Throttle) Destination(repository reference.Repository) {
	t.destinations.Store(repository.Registry(), nil)
}

// IsDestination reports whether the worker writes to a registry.
func (t *Throttle) IsDestination(registry string) bool {
	_, destination := t.destinations.Load(registry)
	return destination
}

// free reports whether reading manifests of the registry takes no tokens.
func (t *Throttle) free(registry string) bool {
	if !t.IsDestination(registry) {
		return false
	}
	_, origin := t.Budget.Limit(registry, t.identity(registry))
	return origin == budget.None
}

// Unlimited reports whether the registry of a repository is not known to limit pulls. Docker Hub is
// known to, although it states its limit only in answers.
func (t *Throttle) Unlimited(repository reference.Repository) bool {
	registry := repository.Registry()
	_, origin := t.Budget.Limit(registry, t.identity(registry))
	return registry != reference.DockerHub && (origin == budget.None || origin == budget.Found)
}

// Transport returns the transport for the worker's own requests. Their pulls count for the mirror
// with this name; if it is empty, for none.
func (t *Throttle) Transport(network http.RoundTripper, mirror string) http.RoundTripper {
	return &transport{throttle: t, network: network, mirror: mirror}
}

type transport struct {
	throttle *Throttle
	network  http.RoundTripper
	mirror   string
}

// RoundTrip sends the request when the budget allows it, and learns the registry's limits
// from the answer. A pull that was lost with its connection is sent once more, with a token of
// its own: the registry may have counted it.
func (tr *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := tr.send(request)
	if errors.Is(err, errLost) {
		return tr.send(request)
	}
	return response, err
}

func (tr *transport) send(request *http.Request) (*http.Response, error) {
	t := tr.throttle
	ctx := request.Context()
	call := budget.Call{Registry: reference.RegistryOf(request.URL.Host), Kind: kindOf(request)}
	token, as, err := t.permit(ctx, tr.mirror, call)
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, err
	}
	request = inTime(request, token)
	call.Started = time.Now()
	request, turn := t.await(request, &call, as)
	response, err := tr.network.RoundTrip(request)
	if turn.err != nil {
		return nil, turn.err
	}
	if err != nil {
		turn.cancel(nil)
	} else {
		turn.ends(response)
	}
	t.observe(request, call.Kind, response)
	if errors.Is(context.Cause(request.Context()), budget.ErrLate) {
		err = errors.Join(budget.ErrLate, err, token.Late(ctx))
	}
	if err != nil {
		return nil, err
	}
	token.InTime()
	t.Budget.Took(call.Registry, time.Since(call.Started))
	t.learn(ctx, call.Registry, response.Header)
	if response.StatusCode == http.StatusTooManyRequests {
		if closed := t.refused(ctx, call, retryafter.In(response.Header, time.Now()), "429 Too Many Requests"); closed != nil {
			// The fleet may wait longer than the registry asks.
			wait := math.Ceil(closed.Slot.Sub(t.Budget.Now()).Seconds())
			response.Header.Set("Retry-After", strconv.Itoa(max(1, int(wait))))
		}
		return response, nil
	}
	t.Budget.Succeeded(call)
	return response, nil
}

// learn stores the limit in the header of an answer, if any.
func (t *Throttle) learn(ctx context.Context, registry string, header http.Header) {
	quota, stated := budget.ParseQuota(header)
	if !stated {
		return
	}
	if err := t.Budget.Learn(ctx, registry, t.identity(registry), quota); err != nil && ctx.Err() == nil {
		t.Log.Debug("cannot store the limit that a registry states", "registry", registry, "error", err)
	}
}

// observe calls Observe with the registry of the first request. The hosts to which registries
// redirect, such as those of blobs, are too many for metrics.
func (t *Throttle) observe(request *http.Request, kind budget.Kind, response *http.Response) {
	if t.Observe == nil {
		return
	}
	for request.Response != nil && request.Response.Request != nil {
		request = request.Response.Request
	}
	status := 0
	if response != nil {
		status = response.StatusCode
	}
	t.Observe(reference.RegistryOf(request.URL.Host), kind, status)
}

// permit takes a token for a pull if the registry counts pulls. The token stays spent if the request
// fails, because the request may have arrived. For other requests, permit returns the kind by which
// to pace them. A pull from a destination is paced like any other request for a manifest, so that no
// limit of pulls is discovered there.
func (t *Throttle) permit(ctx context.Context, mirror string, call budget.Call) (token budget.Token, as budget.Kind, err error) {
	if closed := t.closed(call.Registry); closed != nil {
		return budget.Token{}, "", closed
	}
	identity := t.identity(call.Registry)
	switch {
	case call.Kind != budget.Pull:
		as = call.Kind
	case t.Budget.Counts(call.Registry, identity):
		token, err = t.Budget.Take(ctx, mirror, call.Registry, identity)
	case t.free(call.Registry):
		as = budget.Manifest
	default:
		as = budget.Pull
	}
	return token, as, t.explain(ctx, call.Registry, err)
}

// inTime returns a request that is aborted if it is not sent before the token's deadline, after which
// the token would not count any more.
func inTime(request *http.Request, token budget.Token) *http.Request {
	ctx := token.Within(request.Context())
	if ctx == request.Context() {
		return request
	}
	return request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { budget.Sent(ctx) },
	}))
}

func (t *Throttle) identity(registry string) string {
	if t.Identity == nil {
		return ""
	}
	return t.Identity(registry)
}

// explain wraps errors of the broker in budget.ErrBroker.
func (t *Throttle) explain(ctx context.Context, registry string, err error) error {
	if err == nil || errors.As(err, new(*budget.SpentError)) || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%s: %w: %w", registry, budget.ErrBroker, err)
}

// refused closes the registry for the fleet after a 429. The result is that of closed.
func (t *Throttle) refused(ctx context.Context, call budget.Call, after time.Duration, reason string) *budget.SpentError {
	if err := t.Budget.Refused(ctx, call, after, redact.Line(reason)); err != nil {
		t.Log.Warn("cannot stop the other workers' requests to a registry after a 429", "registry", call.Registry, "error", err)
	}
	return t.closed(call.Registry)
}

// closed returns an error with the reason and the end of the registry's closure; nil if it is open.
func (t *Throttle) closed(registry string) *budget.SpentError {
	until, reason, closed := t.Budget.Closed(registry)
	if !closed {
		return nil
	}
	if away := t.Budget.IsAway(registry); away != nil {
		return away
	}
	return &budget.SpentError{Registry: registry, Slot: until, Reason: reason}
}

// kindOf returns the kind of a request, as registries limit it.
func kindOf(request *http.Request) budget.Kind {
	urlPath := request.URL.Path
	// A repository may be named blobs, or manifests, or have such a name in its path.
	isManifest := path.Base(path.Dir(urlPath)) == "manifests"
	switch {
	case strings.HasPrefix(urlPath, "/api/"), strings.EqualFold(request.URL.Hostname(), reference.DockerHubAPI):
		return budget.API
	case urlPath == quayTokens && request.Header.Get("Authorization") != "":
		return budget.Login
	case urlPath == quayTokens:
		return budget.AnonymousLogin
	case strings.HasSuffix(urlPath, "/tags/list"):
		return budget.Tags
	case isManifest && request.Method == http.MethodGet:
		return budget.Pull
	case isManifest:
		return budget.Manifest
	case strings.Contains(urlPath, "/blobs/"):
		return budget.Blob
	}
	return budget.Other
}

// quayTokens is the path of Quay's token server.
const quayTokens = "/v2/auth"

// GuardCopy runs a skopeo process that pulls one or more manifests of the source for the mirror with this
// name. It first takes a token for each pull. It returns a *budget.SpentError if either registry is closed.
func (t *Throttle) GuardCopy(ctx context.Context, mirror string, source, destination reference.Repository, pulls int, run func(context.Context) error) error {
	from, to := source.Registry(), destination.Registry()
	if closed := t.closed(to); closed != nil {
		return closed
	}
	tokens, err := t.Budget.TakeForCopy(ctx, mirror, from, t.identity(from), pulls)
	if err != nil {
		return t.explain(ctx, from, err)
	}
	call := budget.Call{Registry: from, Kind: budget.Pull, Started: time.Now()}
	token := tokens[0] // the others were taken later
	err = run(token.Within(ctx))
	var failed *skopeo.Error
	switch {
	case err == nil:
		token.InTime()
		t.Budget.Succeeded(call)
	case errors.Is(err, budget.ErrLate):
		err = errors.Join(err, token.Late(ctx))
	case errors.Is(err, skopeo.ErrNotInstalled):
		err = errors.Join(err, budget.GiveBack(ctx, tokens))
	case errors.As(err, &failed) && errors.Is(err, skopeo.ErrLimited):
		if failed.Registry != "" {
			call.Registry = reference.RegistryOf(failed.Registry)
		}
		if closed := t.refused(ctx, call, failed.RetryAfter, failed.Reason); closed != nil {
			err = fmt.Errorf("%w: %w", closed, err)
		}
	}
	return err
}
