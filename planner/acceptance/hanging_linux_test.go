package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/scripttest"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// wrapped makes the site run skopeo through a wrapper, in the background and in a session of its
// own. It returns a function that returns the process ids of wrappers and skopeos.
func (s *site) wrapped() (pids func() []string) {
	s.t.Helper()
	skopeo, err := exec.LookPath("skopeo")
	require.NoError(s.t, err)
	dir := s.t.TempDir()
	wrapper, noted := filepath.Join(dir, "wrapper"), filepath.Join(dir, "pids")
	scripttest.Write(s.t, wrapper, fmt.Sprintf("case \"$*\" in *docker://*) ;; *) exec %[1]s \"$@\" ;; esac\nsetsid %[1]s \"$@\" &\necho $$ $! >>%[2]s\nwait $!", skopeo, noted))
	s.env["COPY_ENGINE"], s.env["SKOPEO_PATH"] = "skopeo", wrapper
	return func() []string {
		text, _ := os.ReadFile(noted)
		return strings.Fields(string(text))
	}
}

// TestKilledWithWrapper: after SIGKILL of a worker, no process that a wrapper has started remains.
func TestKilledWithWrapper(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/one", "1")
	s.write("osism/one")
	open := s.gate(blobs)
	for name, first := range map[string]func(*site) *process{
		"worker": func(s *site) *process { s.plan(); return s.worker() },
		"mirror": func(s *site) *process { return s.with("NATS_URL", "").planner("mirror") },
	} {
		s.source.ResetRequests()
		pids := s.wrapped()
		p := first(s)
		s.waitFor(blobs)
		require.Eventually(t, func() bool { return len(pids()) == 2 }, patience, tick)
		for _, pid := range pids() {
			require.True(t, alive(pid), name)
		}
		p.kill()
		for _, pid := range pids() {
			require.Eventually(t, func() bool { return !alive(pid) }, patience, tick, "what a wrapper has started outlives the "+name)
		}
	}
	open()
}

// TestStalled: a source that stops in the middle of a blob costs one try of the image. The worker
// continues.
func TestStalled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/one", "1")
	s.write("osism/one")
	s.env["STALL_TIMEOUT"] = "2s"
	s.source.Inject(registrytest.Fault{Match: blobs, Times: 1, Drip: make(chan int)})
	said := s.planner("mirror").exits(0)
	require.Contains(t, said, "stalled: no byte moved for 2s")
	s.requireMirrored("osism/one")
}

// TestUnderWay: planner status shows each copy with its bytes and its worker.
func TestUnderWay(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/one", "1")
	s.write("osism/one")
	open := s.gate(blobs)
	s.plan()
	s.worker()
	var st run.Status
	require.Eventually(t, func() bool {
		st = s.status()
		// Without skopeo, only blobs count.
		return len(st.UnderWay) == 1 && (st.UnderWay[0].Bytes > 0 || engine() == "builtin")
	}, patience, asking)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, s.source.Host()+"/osism/one:1", st.UnderWay[0].Image)
	require.Equal(t, s.destination.Host()+"/"+prefix+"/osism/one:1", st.UnderWay[0].Destination)
	require.Equal(t, host, st.UnderWay[0].Worker)
	said := s.planner("status").exits(0)
	require.Regexp(t, `UNDER WAY +TO +MOVED +RATE +FOR +WORKER\n +`+s.source.Host()+`/osism/one:1 `, said)
	watch := s.planner("status", "--watch")
	watch.says("1 image under way")
	open()
	watch.exits(0)
	require.Empty(t, s.status().UnderWay)
}
