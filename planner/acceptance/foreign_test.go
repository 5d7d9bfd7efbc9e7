package acceptance

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// TestForeignMessagesHoldUpNothing: any client of the broker can store garbage as failures,
// schedules, chunks, and entries of buckets.
func TestForeignMessagesHoldUpNothing(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	s.push("osism/tool", "1")
	s.write("osism/tool", "osism/missing")
	brokertest.Open(t, server.Config()) // which makes the stream
	const garbage = "\x1b[2J\xff\u009b31m"
	server.Alien(t, "mirror.plan.foo", "", []byte(garbage))
	worker := s.worker()
	worker.says("deleted a foreign message among the schedules")
	s.planner("plan", "--wait").exits(1)
	header := "NATS/1.0\r\nno header\r\n\r\n"
	tool := subject.Failure("default", s.source.Host(), s.source.Host()+"/osism/missing", 1)
	for i, place := range []string{
		tool, tool + ".2", "mirror.failed.x", "mirror.failed.default.x", "mirror.failed.default.x.y", "mirror.plan.foo", "mirror.later.default.foo",
		"mirror.plan.default." + s.status().Run + ".foo", "$KV.mirror_runs.default.20991231-235959-999-ffff", "$KV.mirror_runs.default." + s.status().Run + ".a.b",
		"$KV.mirror_runs.swept", "$KV.mirror_resolved.default.x", "$KV.mirror_absent.x", "$KV.mirror_indexes.x", "$KV.mirror_metrics.fleet",
		"$KV.mirror_limits.set.default.x", "$KV.mirror_closed.x",
	} {
		server.Alien(t, place, []string{"", header}[i%2], []byte(garbage))
	}
	printable := func(text string) {
		t.Helper()
		require.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }), "%q", text)
	}
	said := s.planner("failed").exits(0)
	printable(said)
	require.Contains(t, said, "1 image of 1 repository failed.")
	require.Contains(t, said, `"\x1b[2J\xff\u009b31m"`)
	require.Contains(t, said, "5 messages among the failures cannot be read.")
	p := s.planner("failed", "-o", "json")
	printable(p.exits(0))
	var records []struct {
		Repository string
		Unreadable bool
		Message    []byte
	}
	require.NoError(t, json.Unmarshal([]byte(p.stdout.String()), &records))
	require.Len(t, records, 6)
	for i, r := range records {
		require.Equal(t, i > 0, r.Unreadable)
		if r.Unreadable {
			require.Equal(t, garbage, string(r.Message))
		}
	}
	require.Equal(t, run.StateFailed, s.status().State)
	printable(s.planner("status").exits(0))

	s.planner("plan", "--wait").exits(1)
	series := worker.scrape()
	require.EqualValues(t, 1, series["broker_up"])
	s.push("osism/missing", "1")
	said = s.planner("republish", "--all").exits(0)
	require.Contains(t, said, "messages among the failures cannot be read and stay: see planner failed.")
	s.becomes(runID(t, said), run.StateDone)
	s.requireMirrored("osism/tool", "osism/missing")
	require.Contains(t, s.planner("failed").exits(0), "There are no failed images under the name default.")
}
