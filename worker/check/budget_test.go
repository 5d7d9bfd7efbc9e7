package check_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/comparetest"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// network is a transport made of a function.
type network func(*http.Request) (*http.Response, error)

func (n network) RoundTrip(r *http.Request) (*http.Response, error) { return n(r) }

// TestTurns: a request that must wait for its turn is retried, any number of times. If the wait
// would be long, the check gives up.
func TestTurns(t *testing.T) {
	s := newSite(t)
	s.both(t, "1")
	refusals, wait := 20, time.Duration(0)
	s.Checker = s.over(network(func(r *http.Request) (*http.Response, error) {
		if refusals--; refusals >= 0 {
			return nil, &budget.SpentError{Registry: r.Host, Slot: time.Now().Add(wait), Reason: "others are waiting"}
		}
		return http.DefaultTransport.RoundTrip(r)
	}))
	require.Equal(t, check.Counts{Unchanged: 1, Bytes: none()}, s.check(t, s.entry(tool)).Totals.Counts)
	require.Greater(t, len(s.pauses), 8)

	refusals, wait = 1, time.Hour
	row := s.check(t, s.entry(tool)).Repositories[0]
	require.Len(t, row.Failed, 1)
	require.Contains(t, row.Failed[0].Reason, "others are waiting")
}

// TestAllowance: the forecast of the time uses the limit in the registry's headers, for which one
// HEAD is sent, or a documented or configured limit.
func TestAllowance(t *testing.T) {
	s := newSite(t)
	store, err := budget.Open(t.Context(), brokertest.Embedded(t), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(store.Close)
	internet := registrytest.NewInternet(t, nil, []registrytest.Option{registrytest.WithPullLimit(10, 6*time.Hour)})
	guard := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler)}
	s.Checker = s.over(guard.Transport(internet.Transport, ""))
	set := map[string]budget.Limit{}
	s.Allowance = func(ctx context.Context, registry string) (budget.Allowance, error) {
		return store.Allowance(ctx, registry, "", set[registry])
	}
	for i, tag := range registrytest.Numbered("%d", 25) {
		image(t, internet.Hub, tool, tag, tag)
		if i < 3 {
			image(t, internet.Quay, tool, tag, tag)
			image(t, s.from, tool, tag, tag)
		}
	}
	internet.Hub.SpendPulls(4)
	entry := func(registry string) message.Repository {
		return message.Repository{Source: reference.MustRepository(registry + "/" + tool), Destination: reference.MustRepository(s.to.Host() + "/" + registry)}
	}
	list := []message.Repository{entry("docker.io"), entry("quay.io"), s.entry(tool)}
	report := s.check(t, list...)
	require.Len(t, report.Registries, 3)
	hub, quay := report.Registries[1], report.Registries[2]
	// Other clients may have spent all 4 just now, so the registry may return them only after a
	// whole window.
	const window = 6*3600 + 30 + 1
	require.InDelta(t, 2*window, *hub.Seconds, 10)
	require.Equal(t, hub.Seconds, report.Totals.Seconds)
	hub.Seconds = nil
	require.Equal(t, check.Registry{Registry: "docker.io", Limit: 10, Window: "6h", Origin: budget.Learned, Free: new(6), Pulls: 25}, hub)
	require.Equal(t, check.Registry{
		Registry: "quay.io", Limit: 45, Window: "1s", Origin: budget.Documented, Pulls: 3, PullsAtLeast: true, Seconds: new(1),
	}, quay)
	require.Equal(t, check.Registry{Registry: s.from.Host(), Pulls: 3}, report.Registries[0])
	require.Equal(t, 1, internet.Hub.Count(heads), "one HEAD tells what is left")
	require.Zero(t, internet.Hub.Pulls())

	set["docker.io"] = budget.Limit{Requests: 100, Window: time.Hour}
	hub = s.check(t, list...).Registries[1]
	require.Equal(t, check.Registry{Registry: "docker.io", Limit: 100, Window: "1h", Origin: budget.Set, Free: new(96), Pulls: 25, Seconds: new(0)}, hub)
}

// TestListedSizes: the bytes of images to copy are the sizes in the listing, for the wanted
// platforms only, and each digest once.
func TestListedSizes(t *testing.T) {
	s := newSite(t)
	internet := registrytest.NewInternet(t, nil, nil)
	s.Checker = s.over(internet.Transport)
	sized := func(platform string, size int) registrytest.Image {
		return registrytest.Image{Platform: platform, Layers: []registrytest.Layer{{Seed: platform, Size: size}}}
	}
	for _, r := range []*registrytest.Registry{internet.Hub, internet.Quay} {
		digest, err := r.PushIndex(tool, "both", registrytest.Index{Images: []registrytest.Image{sized(amd64, 100<<10), sized(arm64, 300<<10)}})
		require.NoError(t, err)
		require.NoError(t, r.Tag(tool, "alias", digest))
		_, err = r.PushImage(tool, "one", sized(amd64, 50<<10))
		require.NoError(t, err)
	}
	bytes := func(registry string, platforms ...string) check.Counts {
		return s.check(t, message.Repository{
			Source: reference.MustRepository(registry + "/" + tool), Destination: reference.MustRepository(s.to.Host() + "/" + tool), Selection: &selection.Selection{Platforms: platforms},
		}).Totals.Counts
	}
	const archive = 8 << 10 // bytes by which a layer may exceed the file in it
	for _, c := range []struct {
		registry  string
		platforms []string
		want      int64
		atLeast   bool
	}{
		{"docker.io", nil, 450 << 10, false},
		{"docker.io", []string{amd64}, 150 << 10, false},
		{"docker.io", []string{arm64}, 300 << 10, false},
		{"quay.io", nil, 50 << 10, true}, // which has no size of an index
		{"quay.io", []string{amd64}, 50 << 10, true},
	} {
		counts := bytes(c.registry, c.platforms...)
		require.InDelta(t, c.want, *counts.Bytes, archive, "%s %v", c.registry, c.platforms)
		require.Equal(t, c.atLeast, counts.BytesAtLeast, "%s %v", c.registry, c.platforms)
	}
	require.Equal(t, check.Counts{Skipped: 3, Bytes: none(), PullsAtLeast: true}, bytes("docker.io", "linux/s390x"))
}

// TestKnownAbsences: an index that lacks the wanted platforms, as workers have noted, is not
// counted as to be copied.
func TestKnownAbsences(t *testing.T) {
	s := newSite(t)
	absent := index(t, s.from, tool, "1", arm64)
	index(t, s.from, tool, "2", amd64)
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{Platforms: []string{amd64}}
	require.Equal(t, 2, s.check(t, entry).Totals.Copy)
	notes := &comparetest.Memory{}
	require.NoError(t, notes.NoteAbsent(t.Context(), reference.MustDigest(absent), compare.Wanted(entry)))
	s.Notes = notes
	require.Equal(t, check.Counts{Copy: 1, Skipped: 1, Pulls: 1, PullsAtLeast: true, BytesAtLeast: true}, s.check(t, entry).Totals.Counts)
}
