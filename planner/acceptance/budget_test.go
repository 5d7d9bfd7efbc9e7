package acceptance

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// refusals are answers by which a registry says that it was asked too much.
var refusals = registrytest.Answered(429)

// TestFleetKeepsALimit: three workers spend what the registry tells it allows, and
// no more, though each of them could do it all.
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

// TestIndexAboveTheLimit: an index of more manifests than a window allows is copied
// over several windows, and nothing is pulled twice for it.
func TestIndexAboveTheLimit(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t, registrytest.WithPullLimit(4, 2*time.Second))
	var platforms []string
	for i := range 9 {
		platforms = append(platforms, fmt.Sprintf("linux/arch%d", i))
	}
	var images []registrytest.Image
	for _, p := range platforms {
		images = append(images, registrytest.Image{Version: "1", Platform: p})
	}
	_, err := s.source.PushIndex("team/large", "1", registrytest.Index{Images: images})
	require.NoError(t, err)
	s.write("team/large:1")
	s.worker()
	s.planner("plan", "--wait").exits(0)

	s.requireMirrored("team/large")
	require.Zero(t, s.source.Count(refusals))
	require.Equal(t, 1+len(platforms), s.source.Pulls())
}

// TestRefusedRegistryIsLeftAlone: 429 without a limit that anybody told is no
// failure: the registry is left alone for as long as it says, and the image comes
// after that.
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
	worker.says("a registry refuses us and is left alone")
	require.Empty(t, s.failed())
}
