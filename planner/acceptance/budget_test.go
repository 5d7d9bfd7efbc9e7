package acceptance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// refusals matches answers with which a registry refuses too many requests.
var refusals = registrytest.Answered(429)

// TestFleetKeepsALimit: three workers spend exactly the pulls that the registry allows, although
// each alone could spend more.
func TestFleetKeepsALimit(t *testing.T) {
	t.Parallel()
	const limit = 12
	s, _ := newFleet(t, registrytest.WithPullLimit(limit, 2*time.Second))
	var entries []string
	for i := range 6 {
		repository := fmt.Sprintf("team%d/app", i)
		s.push(repository, "1", "2", "3", "4", "5")
		entries = append(entries, repository)
	}
	s.write(entries...)
	s.env["CHUNK_SIZE"] = "1"
	for range 3 {
		s.worker()
	}
	s.planner("plan", "--wait").exits(0)

	s.requireMirrored(entries...)
	require.Zero(t, s.source.Count(refusals))
	require.Equal(t, 30, s.source.Pulls())
	status := s.status()
	require.Equal(t, run.StateDone, status.State)
	require.Equal(t, 30, status.Pulls)
	require.Len(t, status.Registries, 1)
	require.Equal(t, s.source.Host(), status.Registries[0].Registry)
	require.Equal(t, limit, status.Registries[0].Limit)
}

// TestFleetKeepsTheRatesOfQuay: eight workers that start together are never refused, over HTTP/2,
// which quay.io counts by connection, and over HTTP/1.1, which it counts by address. The worker sends the
// requests of both engines.
func TestFleetKeepsTheRatesOfQuay(t *testing.T) {
	t.Parallel()
	const workers, repositories = 8, 40
	for name, c := range map[string]struct {
		engine, protocol string
		options          []registrytest.Option
	}{
		"HTTP/1.1 and builtin engine": {"builtin", "HTTP/1.1", nil},
		"HTTP/2 and skopeo":           {"skopeo", "HTTP/2.0", []registrytest.Option{registrytest.WithHTTP2()}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOnline(t, append(c.options, registrytest.WithQuayRates()), nil)
			o.env["NATS_URL"] = brokertest.Start(t).URL()
			o.env["CHUNK_SIZE"] = "1"
			o.env["COPY_ENGINE"] = c.engine
			var entries []string
			for i := range repositories {
				name := fmt.Sprintf("osism/service%d", i)
				_, err := o.Quay.PushImage(name, "1", registrytest.Image{Version: name})
				require.NoError(t, err)
				entries = append(entries, "quay.io/"+name)
			}
			o.writeOnline(entries...)
			for range workers {
				o.worker()
			}
			o.planner("plan", "--wait").exits(0)
			require.Equal(t, run.Tally{Total: repositories, Copied: repositories}, o.status().Images)
			require.Empty(t, count(o.Quay, refusals, func(r registrytest.Request) string { return string(r.Kind) }))
			// net/http sends a listing again if its connection ends, and each time with a turn of its own.
			require.GreaterOrEqual(t, o.Quay.Count(listings), repositories)
			require.Equal(t, repositories, o.Quay.Pulls())
			for _, r := range o.Quay.Requests() {
				if listings(r) {
					require.Equal(t, c.protocol, r.Proto)
				}
			}

			o.Quay.ResetRequests()
			o.planner("plan", "--wait").exits(0)
			require.Equal(t, run.Tally{Total: repositories, Unchanged: repositories}, o.status().Images)
			require.Empty(t, count(o.Quay, refusals, func(r registrytest.Request) string { return string(r.Kind) }))
		})
	}
}

// TestIndexAboveTheLimit: an index with more manifests than a window allows is copied over several
// windows. The index is put last, and nothing is pulled twice.
func TestIndexAboveTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 10
	s, _ := newFleet(t, registrytest.WithPullLimit(limit, 2*time.Second))
	children := s.pushIndex("team/large", 20)
	s.write("team/large:1")
	s.worker()
	s.planner("plan", "--wait").exits(0)

	s.requireMirrored("team/large")
	require.Zero(t, s.source.Count(refusals))
	require.Equal(t, 1+children, s.source.Pulls())
	var last registrytest.Request
	for _, r := range s.destination.Requests() {
		if puts(r) {
			last = r
		}
	}
	require.Equal(t, "1", last.Reference)
}

// pushIndex stores an index of n images under the tag 1.
func (s *site) pushIndex(repository string, children int) int {
	s.t.Helper()
	var images []registrytest.Image
	for i := range children {
		images = append(images, registrytest.Image{Version: "1", Platform: fmt.Sprintf("linux/arch%d", i)})
	}
	_, err := s.source.PushIndex(repository, "1", registrytest.Index{Images: images})
	require.NoError(s.t, err)
	return children
}

// TestNeitherNameStarves: a chunk of many images or a large index spends the whole budget.
// Nevertheless, one image of another mirror name comes soon.
func TestNeitherNameStarves(t *testing.T) {
	t.Parallel()
	const limit = 6
	for name, c := range map[string]struct {
		workers int
		push    func(s *site)
	}{
		"one worker":      {1, func(s *site) { s.push("team/many", registrytest.Numbered("%d", 24)...) }},
		"several workers": {3, func(s *site) { s.push("team/many", registrytest.Numbered("%d", 24)...) }},
		"a large index":   {2, func(s *site) { s.pushIndex("team/many", 23) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := newFleet(t, registrytest.WithPullLimit(limit, 2*time.Second))
			c.push(s)
			s.push("other/one", "1")
			for range c.workers {
				s.worker()
			}
			s.write("team/many")
			many := s.with("MIRROR_NAME", "many").planner("plan", "--wait")
			s.waitFor(distinct(limit, pulls, reference))
			s.write("other/one:1")
			s.with("MIRROR_NAME", "one").planner("plan", "--wait").exits(0)
			many.exits(0)

			s.requireMirrored("team/many", "other/one")
			require.Zero(t, s.source.Count(refusals))
			var order []string
			for _, r := range s.source.Requests() {
				if pulls(r) {
					order = append(order, r.Repository)
				}
			}
			require.Len(t, order, 25)
			place := slices.Index(order, "other/one")
			t.Logf("the one image was pulled as number %d of %d", place+1, len(order))
			require.Less(t, place, 3*limit, "the window that was spent, one in which it waits, and its turn")
		})
	}
}

// TestRefusedRegistryIsLeftAlone: an answer 429 without a known limit causes no failure. The
// workers wait as long as the registry says, and copy the image then.
func TestRefusedRegistryIsLeftAlone(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("team/app", "1", "2")
	s.write("team/app")
	s.env["MAX_ATTEMPTS"] = "1"
	s.source.Inject(registrytest.Fault{
		Match: pulls, Times: 1, Status: 429, Header: map[string][]string{"Retry-After": {"1"}},
		Body: `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`,
	})
	worker := s.worker()
	s.planner("plan", "--wait").exits(0)

	s.requireMirrored("team/app")
	require.Equal(t, 1, s.source.Count(refusals))
	worker.says("a registry limits requests and is closed")
	require.Empty(t, s.failed())
}
