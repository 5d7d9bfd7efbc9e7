package acceptance

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

// marked returns the failed images that planner failed marks, and the others.
func (s *site) marked() (left, listed []string) {
	s.t.Helper()
	for _, r := range s.failed() {
		for _, i := range r.Images {
			name := strings.TrimPrefix(i.Source, s.source.Host()+"/")
			if i.LeftList != "" {
				left = append(left, name)
			} else {
				listed = append(listed, name)
			}
		}
	}
	return left, listed
}

// TestFailuresThatLeaveTheList: failures of images that have left the list are counted separately,
// can still be republished, and return with their entries. Deleting half of the list by mistake
// loses nothing.
func TestFailuresThatLeaveTheList(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/tool", "1")
	all := []string{"osism/tool", "osism/gone", "osism/one:1", "osism/one:2"}
	s.write(all...)
	worker := s.worker()
	s.planner("plan", "--wait").exits(1)

	s.write("osism/tool", "osism/one:1")
	require.Contains(t, s.planner("plan", "--wait").exits(1), `msg="failed images have left the list" images=2`)
	left, listed := s.marked()
	require.Equal(t, []string{"osism/gone", "osism/one:2"}, left)
	require.Equal(t, []string{"osism/one:1"}, listed)
	require.Equal(t, run.Failures{Images: 1, LeftList: 2}, s.status().Failures)
	require.Contains(t, s.planner("status").exits(0), "1 kept for republish, 2 left the list")
	require.Contains(t, s.planner("failed").exits(0), "The list no longer has 2 failed images of 2 repositories; kept for 30d.")
	series := worker.scrape()
	require.EqualValues(t, 1, series[`failed_images{mirror="default"}`])
	require.EqualValues(t, 2, series[`failed_images_left_list{mirror="default"}`])

	s.with("CHUNK_NUMBER", "1", "CHUNK_SIZE", "1").planner("plan", "--wait").exits(0)
	left, _ = s.marked()
	require.Len(t, left, 2, "a part of the list says nothing of the rest")
	s.write("osism/tool")
	s.with("MIRROR_NAME", "other", "FILTER", "2").planner("plan", "--wait").exits(0)
	left, _ = s.marked()
	require.Len(t, left, 2, "nor does another mirror's list")

	s.write(all...)
	s.planner("plan", "--wait").exits(1)
	left, listed = s.marked()
	require.Empty(t, left)
	require.Equal(t, []string{"osism/gone", "osism/one:1", "osism/one:2"}, listed)

	s.write("osism/tool")
	s.planner("plan", "--wait").exits(0)
	require.EqualValues(t, 3, s.status().Failures.LeftList)
	s.push("osism/one", "2", "1")
	s.becomes(s.republish(s.source.Host()+"/osism/one"), run.StateDone)
	left, listed = s.marked()
	require.Equal(t, []string{"osism/gone"}, left)
	require.Empty(t, listed)
}

// TestForget deletes failures, and finds their names in the log.
func TestForget(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	s.push("osism/tool", "1")
	s.write("osism/tool", "osism/gone", "osism/one:1", "osism/one:2")
	s.worker()
	s.planner("plan", "--wait").exits(1)
	brokertest.Open(t, server.Config())
	server.Alien(t, "mirror.failed.x", "", []byte("\x1b[2J"))
	host := s.source.Host()

	s.planner("forget").exits(2)
	s.planner("forget", "--left-list", host+"/osism/one").exits(2)
	require.Contains(t, s.planner("forget", host+"/osism/one", host+"/osism/none").exits(2), "no failures of "+host+"/osism/none are recorded under the name default")
	require.Contains(t, s.with("MIRROR_NAME", "other").planner("forget", host+"/osism/one").exits(2), "under the name other")
	require.Equal(t, "Nothing to delete.\n", s.planner("forget", "--left-list").exits(0))
	require.Len(t, s.failed(), 3, "nothing is gone so far")

	said := s.planner("forget", host+"/osism/one:2").exits(0)
	require.Contains(t, said, "Deleted 1 failure.\n")
	require.Contains(t, said, `msg="deleted a failure" mirror=default image=`+host+"/osism/one:2")
	_, listed := s.marked()
	require.Equal(t, []string{"osism/gone", "osism/one:1"}, listed[:2])

	s.write("osism/tool", "osism/one:1")
	s.planner("plan", "--wait").exits(1)
	said = s.planner("forget", "--left-list").exits(0)
	require.Contains(t, said, "image="+host+"/osism/gone ")
	require.NotContains(t, said, "osism/one")
	require.Contains(t, s.planner("failed").exits(0), "1 image of 1 repository failed.")
	said = s.planner("failed").exits(0)
	_, name, _ := strings.Cut(said, "planner forget '")
	name, _, _ = strings.Cut(name, "'")
	require.Contains(t, s.planner("forget", name).exits(0), "Deleted 1 unreadable message.\n")
	require.NotContains(t, s.planner("failed").exits(0), "cannot be read")
	s.planner("forget", host+"/osism/one").exits(0)
	require.Empty(t, s.failed())
	require.Zero(t, s.status().Failures)
}
