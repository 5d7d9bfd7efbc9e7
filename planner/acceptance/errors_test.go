package acceptance

import (
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

// secret must not be in any output.
const secret = "hunter2"

// closedPort returns an address without a listener.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

// refuses runs planner plan, which must fail, and returns its message without the name of the
// program.
func (s *site) refuses(code int, arguments ...string) string {
	s.t.Helper()
	said := s.planner(append([]string{"plan"}, arguments...)...).exits(code)
	require.NotContains(s.t, said, secret)
	return said
}

func TestBrokerRefusesConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.writeList(noWorkerList())
	address := closedPort(t)
	s.env["NATS_URL"] = "nats://planner:" + secret + "@" + address
	said := s.refuses(3)
	require.Contains(t, said, "planner: the broker cannot be reached at nats://"+address)
}

func TestBrokerRefusesUs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.writeList(noWorkerList())
	guarded := brokertest.Start(t, func(o *server.Options) { o.Username, o.Password = "planner", "right" })
	address := guarded.URL()[len("nats://"):]
	wrong := s.with("NATS_URL", "nats://planner:"+secret+"@"+address)
	started := time.Now()
	require.Contains(t, wrong.refuses(3), "planner: the broker refuses the credentials at nats://"+address)
	worker := start(t, wrong.served().env, "", "worker").exits(3)
	require.Contains(t, worker, "worker: the broker refuses the credentials at nats://"+address)
	require.NotContains(t, worker, secret)
	require.Less(t, time.Since(started), 10*time.Second, "it waits for nothing")
	s.with("NATS_URL", guarded.URL(), "NATS_USER", "planner", "NATS_PASSWORD", "right").plan()

	bare := brokertest.Start(t, func(o *server.Options) { o.JetStream = false })
	require.Contains(t, s.with("NATS_URL", bare.URL()).refuses(3),
		"planner: the broker has no JetStream: start nats-server with -js, and enable it for this account")
}

func TestListCannotBeRead(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	lists := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		if password == secret && r.URL.Path == "/images.yml" {
			_, _ = w.Write([]byte(noWorkerList()))
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(lists.Close)
	address := lists.Listener.Addr().String()
	with := func(source string) *site { return s.with("MIRROR_SOURCE_URL", source) }

	require.Equal(t, "planner: the list could not be read: http://"+address+"/none: the server answered 404 Not Found\n",
		with("http://planner:"+secret+"@"+address+"/none").refuses(3))
	gone := closedPort(t)
	said := with("http://planner:" + secret + "@" + gone + "/images.yml").refuses(3)
	require.Contains(t, said, "http://"+gone+"/images.yml")
	require.Contains(t, said, "connection refused")
	require.Contains(t, with("/no/such/list.yml").refuses(3), "/no/such/list.yml: no such file or directory")

	b := brokertest.Open(t, server.Config())
	s.writeList("containers:\n  - one.example.com/lib/a\n  - one.example.com/lib/B\n  - 7\n  - one.example.com:99999/c\n" +
		"  - one.example.com/lib/d:v 1\n  - two.example.com/lib/a\n")
	said = s.refuses(2)
	for _, line := range []string{":3: ", ":4: ", ":5: ", ":6: ", ":7: "} {
		require.Contains(t, said, s.list+line)
	}
	require.NotContains(t, said, s.list+":2: ")
	require.Empty(t, stored(t, b))

	// The URL with credentials works.
	said = with("http://planner:" + secret + "@" + address + "/images.yml").refuses(0)
	require.Contains(t, said, "8 entries")
	piped := start(t, with("-").env, noWorkerList(), "planner", "plan", "--dry-run").exits(0)
	require.Contains(t, piped, "one.example.com/lib/h")
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	said := s.with("CHUNK_SIZE", "ten", "CHUNK_INTERVAL", "4", "MIRROR_NAME", "My Mirror", "MIRROR_SOURCE_URL", "",
		"MIRROR_DEST_URL", "https://registry.example.com", "NATS_URL", "nats://planner:"+secret+"@", "LOG_LEVEL", "loud").refuses(2)
	for _, variable := range []string{
		"CHUNK_SIZE", "CHUNK_INTERVAL", "MIRROR_NAME", "MIRROR_SOURCE_URL", "MIRROR_DEST_URL", "NATS_URL", "LOG_LEVEL",
	} {
		require.Contains(t, said, variable)
	}
	worker := start(t, s.with("WORKER_CONCURRENCY", "0", "MAX_ATTEMPTS", "few", "METRICS_ADDR", "here", "CHILD_ENV", "PATH,NATS_PASSWORD").env, "", "worker").exits(2)
	for _, variable := range []string{"WORKER_CONCURRENCY", "MAX_ATTEMPTS", "METRICS_ADDR", "CHILD_ENV"} {
		require.Contains(t, worker, variable)
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.writeList(noWorkerList())
	for arguments, expected := range map[[2]string]string{
		{"plan", "--wiat"}:       "planner: wrong usage: unknown flag: --wiat; planner plan --help lists the flags\n",
		{"plan", "now"}:          "planner: wrong usage: unexpected \"now\"\n",
		{"mirror", "now"}:        "planner: wrong usage: unexpected \"now\"\n",
		{"plan", "--timeout=1s"}: "planner: wrong usage: --timeout needs --wait and a duration above 0\n",
	} {
		require.Equal(t, expected, s.planner(arguments[:]...).exits(2))
	}
	require.Contains(t, s.planner("plna").exits(2), "planner: unknown command \"plna\"")
	require.Contains(t, s.planner("status", "-o", "yaml").exits(2), "expected json")
	require.Contains(t, start(t, s.env, "", "worker", "now").exits(2), "worker: wrong usage: unexpected \"now\"")
	require.Contains(t, start(t, s.env, "", "worker", "--now").exits(2), "unknown flag: --now")
	require.Contains(t, s.planner("status").exits(2), "no store: nothing has run here")
}

func TestUnfinishedPlans(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.writeList(noWorkerList())
	said := s.planner("plan", "--wait", "--timeout", "1s").exits(4)
	timedOut := runID(t, said)
	require.Contains(t, said, "planner: unfinished: --timeout 1s; planner status "+timedOut+" shows its progress\n")
	require.Equal(t, run.StateWaiting, s.status(timedOut).State)

	s.env["CHUNK_SIZE"], s.env["CHUNK_INTERVAL"] = "4", "1h"
	plan := s.planner("plan", "--wait")
	plan.says("waiting for a worker")
	plan.signal(syscall.SIGINT)
	said = plan.exits(4)
	require.Contains(t, said, "planner: unfinished: interrupted; planner status "+runID(t, said)+" shows its progress\n")

	plan = s.planner("plan", "--wait")
	plan.says("Published run")
	cancelled := runID(t, plan.all.String())
	s.planner("cancel").exits(0)
	require.Contains(t, plan.exits(4), "planner: unfinished: run "+cancelled+" was cancelled\n")
}

func TestMirrorNameIsTaken(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.writeList(noWorkerList())
	s.plan()
	other := s.with("MIRROR_DEST_URL", "other.example.com/"+prefix)
	require.Contains(t, other.refuses(2), "planner: the mirror name is taken: MIRROR_NAME=default mirrors "+s.list+" to "+s.env["MIRROR_DEST_URL"]+
		": set another MIRROR_NAME, or pass --force to make it mirror "+s.list+" to other.example.com/"+prefix+"\n")
	other.with("MIRROR_NAME", "other").plan()
	other.refuses(0, "--force")
	s.refuses(2)
}
