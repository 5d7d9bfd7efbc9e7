package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

func TestTagsFollowTheSource(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	digests := s.push("osism/tool", "1", "2", "latest")
	index, err := s.source.PushIndex("osism/index", "1", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	s.write("osism/tool", "osism/index")
	s.worker()
	s.planner("plan", "--wait").exits(0)
	s.requireMirrored("osism/tool", "osism/index")

	// The new tag of a digest at the destination is only tagged.
	require.NoError(t, s.source.Tag("osism/tool", "latest", digests[1]))
	require.NoError(t, s.source.Tag("osism/index", "latest", index))
	s.source.ResetRequests()
	s.planner("plan", "--wait").exits(0)
	s.requireMirrored("osism/tool", "osism/index")
	require.Zero(t, s.source.Pulls())
	require.Equal(t, run.Tally{Total: 5, Tagged: 2, Unchanged: 3}, s.status().Images)

	// A tag that has moved to a new digest is copied, and only that is pulled.
	_, err = s.source.PushImage("osism/tool", "latest", registrytest.Image{Version: "3"})
	require.NoError(t, err)
	s.source.ResetRequests()
	s.planner("plan", "--wait").exits(0)
	s.requireMirrored("osism/tool", "osism/index")
	require.Equal(t, 1, s.source.Pulls())
	require.Equal(t, run.Tally{Total: 5, Copied: 1, Unchanged: 4}, s.status().Images)
}
