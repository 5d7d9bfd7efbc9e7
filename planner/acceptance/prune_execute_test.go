package acceptance

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// pruned are the repositories, below osism, whose source drops a tag.
var pruned = []string{"a", "b", "c"}

// drops mirrors two tags of each repository with the command, and mirrors again after the source
// has dropped tag 2.
func (s *site) drops(names []string, command ...string) {
	s.t.Helper()
	var entries []string
	for _, name := range names {
		s.push("osism/"+name, "1", "2")
		entries = append(entries, "osism/"+name)
	}
	s.write(entries...)
	s.planner(command...).exits(0)
	for _, entry := range entries {
		require.NoError(s.t, s.source.Untag(entry, "2"))
	}
	s.planner(command...).exits(0)
}

// requirePruned checks that the destination has tag 1 of each repository, and not tag 2.
func (s *site) requirePruned(names ...string) {
	s.t.Helper()
	for _, name := range names {
		_, err := s.destination.Digest(prefix+"/osism/"+name, "2")
		require.Error(s.t, err)
		_, err = s.destination.Digest(prefix+"/osism/"+name, "1")
		require.NoError(s.t, err)
	}
}

// TestPruneAndRuns: a run that begins during an execution stops it, and then continues. If the
// executing process was killed, the run waits until its lease ends. The rest of the plan is
// executed later.
func TestPruneAndRuns(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.worker()
	file := filepath.Join(t.TempDir(), "plan.yaml")
	s.drops([]string{"a", "b"}, "plan", "--wait")
	s.planner("prune", "--grace", "0s", "--max", "100%", "-o", file).exits(0)

	// within executes the plan until it has requested the deletion of a repository.
	within := func(name string, then func(execution *process)) {
		held := make(chan struct{})
		match := func(r registrytest.Request) bool {
			return strings.HasSuffix(r.Repository, "/"+name) && r.Method == http.MethodDelete
		}
		remove := s.destination.Inject(registrytest.Fault{Match: match, Gate: held})
		s.destination.ResetRequests()
		execution := s.planner("prune", "--execute", file)
		waitFor(t, s.destination, match)
		then(execution)
		remove()
		close(held)
	}
	within("a", func(execution *process) {
		plan := s.planner("plan", "--wait")
		require.Contains(t, execution.exits(4), "is not over")
		require.Contains(t, plan.exits(0), "Published run")
	})
	within("b", func(execution *process) {
		execution.kill()
		require.Contains(t, s.planner("plan", "--wait").exits(0), "the run waits until no prune plan is being executed at its destination")
	})
	s.planner("prune", "--execute", file).exits(0)
	s.requirePruned("a", "b")
}

// TestPruneExecute: a plan is executed once, even if several processes execute it several times.
// Another process continues after a kill.
func TestPruneExecute(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.worker()
	file := filepath.Join(t.TempDir(), "plan.yaml")
	s.drops(pruned, "plan", "--wait")
	s.planner("prune", "--grace", "0s", "--max", "100%", "-o", file).exits(0)
	_, err := s.destination.PushImage(prefix+"/osism/a", "stray", registrytest.Image{Version: "stray"})
	require.NoError(t, err)

	// The process is killed when it has deleted the tag of the second repository, and has not
	// recorded that.
	deletions := func(r registrytest.Request) bool { return r.Method == http.MethodDelete }
	s.destination.ResetRequests()
	held := make(chan struct{})
	var deleted atomic.Bool
	after := func(r registrytest.Request) bool {
		ofB := strings.HasSuffix(r.Repository, "/b")
		if ofB && deletions(r) {
			deleted.Store(true)
		}
		return ofB && r.Method == http.MethodHead && deleted.Load()
	}
	remove := s.destination.Inject(registrytest.Fault{Match: after, Gate: held})
	first := s.planner("prune", "--execute", file)
	waitFor(t, s.destination, after)
	first.kill()
	remove()
	close(held)
	again, other := s.planner("prune", "--execute", file), s.planner("prune", "--execute", file)
	require.Contains(t, again.exits(0)+other.exits(0), "tags deleted")
	s.requirePruned(pruned...)
	for _, name := range pruned {
		require.Equal(t, 1, s.destination.Count(func(r registrytest.Request) bool {
			return deletions(r) && strings.HasSuffix(r.Repository, "/"+name) && r.Status == 202
		}))
	}
	_, err = s.destination.Digest(prefix+"/osism/a", "stray")
	require.NoError(t, err)
	require.Empty(t, s.prunes("--grace", "0s"))
}
