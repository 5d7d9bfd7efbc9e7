package throttle_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/osism/skopeo-worker/worker/throttle"
)

const repository = "team/app"

// newThrottle returns a throttle with its own broker, and an HTTP client with its transport.
func newThrottle(t *testing.T, r *registrytest.Registry) (*throttle.Throttle, *registry.Client) {
	t.Helper()
	store, err := budget.Open(t.Context(), brokertest.Embedded(t), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(store.Close)
	th := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler)}
	insecure := []string{r.Host()}
	return th, registry.NewClient(registry.Options{Insecure: insecure, Transport: th.Transport(registry.NewTransport(insecure, registry.DefaultStall), "")})
}

// TestHeadersMakeTheBudget: the answer to a HEAD states the limit, GETs spend it, and a GET above it
// is not sent.
func TestHeadersMakeTheBudget(t *testing.T) {
	const limit = 3
	r := registrytest.New(t, registrytest.WithPullLimit(limit, time.Minute))
	_, err := r.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	_, client := newThrottle(t, r)
	_, err = client.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.NoError(t, err)
	for range limit {
		_, err = client.Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		require.NoError(t, err)
	}
	_, err = client.Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	var spent *budget.SpentError
	require.ErrorAs(t, err, &spent)
	require.Equal(t, r.Host(), spent.Registry)
	require.Greater(t, time.Until(spent.Slot), 50*time.Second)
	require.Equal(t, limit, r.Pulls())
}

// TestUnlimited: registries other than Docker Hub count as unlimited until they state a limit of pulls.
func TestUnlimited(t *testing.T) {
	for limit, unlimited := range map[int]bool{0: true, 5: false} {
		var options []registrytest.Option
		if limit > 0 {
			options = append(options, registrytest.WithPullLimit(limit, time.Hour))
		}
		r := registrytest.New(t, options...)
		th, c := newThrottle(t, r)
		source := reference.MustRepository(r.Host() + "/" + repository)
		_, err := r.PushImage(repository, "1", registrytest.Image{})
		require.NoError(t, err)
		_, err = c.Head(t.Context(), source, reference.MustTag("1"))
		require.NoError(t, err)
		require.Equal(t, unlimited, th.Unlimited(source))
		require.False(t, th.Unlimited(reference.MustRepository("docker.io/library/nginx")))
	}
}

// TestDestinationIsNotExplored: reading at the destination stores nothing at the broker. It is refused
// while the registry is closed.
func TestDestinationIsNotExplored(t *testing.T) {
	r := registrytest.New(t)
	_, err := r.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	th, client := newThrottle(t, r)
	th.Destination(reference.MustRepository(r.Host() + "/" + repository))
	for range 100 {
		_, err = client.Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		require.NoError(t, err)
	}
	_, origin := th.Budget.Limit(r.Host(), "")
	require.Equal(t, budget.None, origin)
	call := budget.Call{Registry: r.Host(), Kind: budget.Pull, Started: time.Now()}
	require.NoError(t, th.Budget.Refused(t.Context(), call, time.Minute, "enough"))
	var spent *budget.SpentError
	_, err = client.Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorAs(t, err, &spent)
}

// TestObserve: each request that was sent is observed; if it was redirected, with its first registry.
func TestObserve(t *testing.T) {
	r := registrytest.New(t)
	front := httptest.NewServer(http.RedirectHandler(r.URL()+"/v2/", http.StatusTemporaryRedirect))
	defer front.Close()
	asked := strings.TrimPrefix(front.URL, "http://")
	th, _ := newThrottle(t, r)
	var observed []string
	th.Observe = func(registry string, kind budget.Kind, status int) {
		observed = append(observed, fmt.Sprint(registry, " ", kind, " ", status))
	}
	client := http.Client{Transport: th.Transport(http.DefaultTransport, "")}
	response, err := client.Head(front.URL + "/v2/a/manifests/1")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	front.Close()
	_, err = client.Head(front.URL + "/v2/a/manifests/1")
	require.Error(t, err)
	require.NoError(t, th.Budget.Refused(t.Context(), budget.Call{Registry: asked, Kind: budget.Pull, Started: time.Now()}, time.Minute, "enough"))
	_, err = client.Head(front.URL + "/v2/a/manifests/1")
	require.Error(t, err)
	require.Equal(t, []string{asked + " manifest 307", asked + " other 200", asked + " manifest 0"}, observed)
}

// TestKindsOfOddNames: the name of a repository does not change the kind of a request.
func TestKindsOfOddNames(t *testing.T) {
	for _, name := range []string{"blobs/app", "manifests/app", "a/blobs/app", "a/manifests", "tags/list"} {
		r := registrytest.New(t)
		_, err := r.PushImage(name, "1", registrytest.Image{})
		require.NoError(t, err)
		blob, err := r.PushBlob(name, []byte("content"))
		require.NoError(t, err)
		th, client := newThrottle(t, r)
		var observed []budget.Kind
		th.Observe = func(_ string, kind budget.Kind, _ int) {
			if kind != budget.Other { // GET /v2/, over HTTPS and HTTP
				observed = append(observed, kind)
			}
		}
		source := reference.MustRepository(r.Host() + "/" + name)
		_, err = client.Get(t.Context(), source, reference.MustTag("1"))
		require.NoError(t, err)
		_, err = client.Head(t.Context(), source, reference.MustTag("1"))
		require.NoError(t, err)
		_, err = client.Config(t.Context(), source, reference.MustDigest(blob))
		require.NoError(t, err)
		require.Equal(t, []budget.Kind{budget.Pull, budget.Manifest, budget.Blob}, observed, name)
	}
}

// TestRefusalClosesTheRegistry: after a 429, no worker sends a request to the registry, and the error
// has the time of the next one.
func TestRefusalClosesTheRegistry(t *testing.T) {
	r := registrytest.New(t)
	_, err := r.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	th, client := newThrottle(t, r)
	r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestHead), Times: 1, Status: http.StatusTooManyRequests})
	_, err = client.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	refused := (*registry.Error)(nil)
	require.ErrorAs(t, err, &refused)
	require.GreaterOrEqual(t, refused.RetryAfter, 2*time.Second)

	seen := r.Count(registrytest.Any)
	var spent *budget.SpentError
	_, err = client.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorAs(t, err, &spent)
	for _, pair := range [][2]string{{r.Host(), "other.example.com"}, {"other.example.com", r.Host()}} {
		err = th.GuardCopy(t.Context(), "", reference.MustRepository(pair[0]+"/a"), reference.MustRepository(pair[1]+"/a"), 1, func(context.Context) error {
			t.Error("copied from or to a closed registry")
			return nil
		})
		require.ErrorAs(t, err, &spent)
	}
	require.Equal(t, seen, r.Count(registrytest.Any))
}

// TestRefusalStatesTheLimit: the limit is learned from a 429, if another client with the same address
// has spent all pulls.
func TestRefusalStatesTheLimit(t *testing.T) {
	const limit = 7
	r := registrytest.New(t, registrytest.WithPullLimit(limit, time.Minute))
	_, err := r.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	r.SpendPulls(limit)
	th, client := newThrottle(t, r)
	_, err = client.Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.Error(t, err)
	known, origin := th.Budget.Limit(r.Host(), "")
	require.Equal(t, budget.Learned, origin)
	require.Equal(t, budget.Limit{Requests: limit, Window: time.Minute}, known)
}

// TestCopySpendsAndReports: a copy takes a token. A 429 to skopeo closes the registry that sent it.
func TestCopySpendsAndReports(t *testing.T) {
	th, _ := newThrottle(t, registrytest.New(t))
	limits := map[string]budget.Limit{"quay.example.com": {Requests: 1, Window: time.Minute}}
	require.NoError(t, th.Budget.SetLimits(t.Context(), "default", limits))
	require.NoError(t, th.GuardCopy(t.Context(), "", reference.MustRepository("quay.example.com/a"), reference.MustRepository("dest.example.com/a"), 1, func(context.Context) error { return nil }))
	var spent *budget.SpentError
	err := th.GuardCopy(t.Context(), "", reference.MustRepository("quay.example.com/a"), reference.MustRepository("dest.example.com/a"), 1, func(context.Context) error { return nil })
	require.ErrorAs(t, err, &spent)

	// A copy of several pulls takes all of its tokens, or none.
	limits["quay.example.com"] = budget.Limit{Requests: 4, Window: time.Minute}
	require.NoError(t, th.Budget.SetLimits(t.Context(), "default", limits))
	three := func() error {
		return th.GuardCopy(t.Context(), "", reference.MustRepository("quay.example.com/a"), reference.MustRepository("dest.example.com/a"), 3, func(context.Context) error { return skopeo.ErrNotInstalled })
	}
	for range 2 { // one token is spent, and three are given back
		require.ErrorIs(t, three(), skopeo.ErrNotInstalled)
	}
	_, err = th.Budget.Take(t.Context(), "", "quay.example.com", "")
	require.NoError(t, err)
	require.ErrorAs(t, three(), &spent)
	for range 2 {
		_, err = th.Budget.Take(t.Context(), "", "quay.example.com", "")
		require.NoError(t, err)
	}
	_, err = th.Budget.Take(t.Context(), "", "quay.example.com", "")
	require.ErrorAs(t, err, &spent)

	met := &skopeo.Error{Reason: "too many requests", Registry: "dest.example.com", RetryAfter: time.Minute, Err: skopeo.ErrLimited}
	err = th.GuardCopy(t.Context(), "", reference.MustRepository("free.example.com/a"), reference.MustRepository("dest.example.com/a"), 1, func(context.Context) error { return met })
	require.ErrorIs(t, err, skopeo.ErrLimited)
	require.ErrorAs(t, err, &spent)
	require.Equal(t, "dest.example.com", spent.Registry)
	_, _, closed := th.Budget.Closed("dest.example.com")
	require.True(t, closed)
}

// TestNoBrokerNoPermission: nothing is pulled without the broker, and the error is about the broker.
func TestNoBrokerNoPermission(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	b := brokertest.Open(t, server.Config())
	store, err := budget.Open(t.Context(), b, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(store.Close)
	require.NoError(t, store.SetLimits(t.Context(), "default", map[string]budget.Limit{"quay.example.com": {Requests: 9, Window: time.Minute}}))
	server.Stop()
	th := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler)}
	err = th.GuardCopy(t.Context(), "", reference.MustRepository("quay.example.com/a"), reference.MustRepository("dest.example.com/a"), 1, func(context.Context) error { return errors.New("copied") })
	require.ErrorIs(t, err, budget.ErrBroker)
}
