package acceptance

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
)

// killedIn confirms an action, and kills the process when the action has begun and half returns
// true. It returns a new process and the address of its page.
func (s *site) killedIn(serve *process, page, action string, values url.Values, half func() bool) (*process, string) {
	s.t.Helper()
	go func() {
		if response, err := http.PostForm(page+"/actions/"+action, values); err == nil {
			_ = response.Body.Close()
		}
	}()
	serve.says(`msg="audit: action" action=` + action)
	for !half() {
	}
	serve.kill()
	return s.serve()
}

func atOnce() bool { return true }

// TestServeKilledInRepublish: each image is mirrored or still a failure, and the page shows that
// the run is incomplete.
func TestServeKilledInRepublish(t *testing.T) {
	t.Parallel()
	const repositories = 60
	s := newSite(t)
	var names []string
	for n := range repositories {
		names = append(names, fmt.Sprintf("osism/tool-%02d", n))
	}
	s.write(names...)
	s = s.with("MIRROR_SCHEDULE", never, "CHUNK_SIZE", "0")
	serve, page := s.serve()
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "failing") }, patience, tick)
	planned := s.status().Run
	require.Eventually(t, func() bool { return len(s.failed()) == repositories && s.status().Chunks.Done == 1 }, patience, asking)
	for _, name := range names {
		s.push(name, "1")
	}
	serve, page = s.killedIn(serve, page, "republish", nil, func() bool {
		return !strings.Contains(get(t, page+"/failures"), fmt.Sprintf("<p>%d images", repositories))
	})
	status := s.status()
	if status.Run == planned {
		require.Len(t, s.failed(), repositories, "nothing was done")
	} else {
		s.becomes(status.Run, run.StateDone)
		status = s.status(status.Run)
		require.NotZero(t, status.Chunks.Total)
		require.Equal(t, status.Chunks.Total, status.Chunks.Done)
		require.Contains(t, get(t, page+"/runs/"+status.Run), "Interrupted: ")
		require.Contains(t, get(t, page+"/runs"), ">interrupted</span>")
		require.Equal(t, repositories, len(s.failed())+status.Images.Copied+status.Images.Unchanged, "each is in one place")
	}
	for _, r := range s.failed() {
		_, err := s.destination.Digest(prefix+strings.TrimPrefix(r.Repository, s.source.Host()), "1")
		require.Error(t, err, "%s is both", r.Repository)
	}
	t.Logf("%d of %d were republished", repositories-len(s.failed()), repositories)
	if len(s.failed()) > 0 {
		require.Contains(t, post(t, page+"/actions/republish", nil), "Republished ")
		require.Eventually(t, func() bool { return len(s.failed()) == 0 && s.status().State == run.StateDone }, patience, asking)
	}
	s.requireMirrored(names...)
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

// TestServeKilledInPlan: there is a complete new run, none, or one that the page shows as
// interrupted.
func TestServeKilledInPlan(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.write("osism/tool")
	s = s.with("MIRROR_SCHEDULE", never)
	serve, page := s.serve()
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "fresh") }, patience, tick)
	before := s.status().Run
	s.push("osism/tool", "2")
	serve, page = s.killedIn(serve, page, "plan", nil, atOnce)
	switch status := s.status(); {
	case status.Run == before:
		require.NotContains(t, get(t, page+"/runs"), "interrupted")
	case status.State == run.StateCancelled:
		require.Contains(t, get(t, page+"/runs/"+status.Run), "Interrupted: ")
	default:
		s.becomes(status.Run, run.StateDone)
		s.requireMirrored("osism/tool")
	}
	post(t, page+"/actions/plan", nil)
	s.becomes(s.status().Run, run.StateDone)
	s.requireMirrored("osism/tool")
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

// TestServeKilledInCancel: the run is cancelled or continues, and the page shows which.
func TestServeKilledInCancel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.push("osism/later", "1")
	s.write("osism/tool", "osism/later")
	s = s.with("MIRROR_SCHEDULE", never, "CHUNK_SIZE", "1", "CHUNK_INTERVAL", "1h")
	serve, page := s.serve()
	serve.says("planned by schedule") // there is no run before
	require.Eventually(t, func() bool {
		status := s.status()
		return status.Chunks.Done == 1 && status.Chunks.Waiting == 1
	}, patience, asking)
	id := s.status().Run
	serve, page = s.killedIn(serve, page, "cancel", url.Values{"run": {id}}, atOnce)
	status := s.status(id)
	if status.State == run.StateWaiting {
		require.Equal(t, 1, status.Chunks.Waiting)
		require.Contains(t, get(t, page+"/runs/"+id), "/actions/cancel")
		require.Contains(t, post(t, page+"/actions/cancel", url.Values{"run": {id}}), "ancelled")
		status = s.status(id)
	}
	require.Equal(t, run.StateCancelled, status.State)
	require.Equal(t, 1, status.Chunks.Done)
	require.Equal(t, 1, status.Chunks.Dropped)
	require.Contains(t, get(t, page+"/runs/"+id), "cancelled")
	require.NotContains(t, get(t, page+"/runs/"+id), "/actions/cancel")
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}
