package acceptance

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// checked is the format of planner check -o json on which scripts rely.
type checked struct {
	Repositories []struct {
		Repository, Destination string
		checkedCounts
		Failed, Rejected []struct{ Image, Reason string }
	}
	Registries []struct {
		Registry, Window, Origin string
		Limit, Pulls             int
		Free, Seconds            *int
		PullsAtLeast             bool `json:"pulls_at_least"`
	}
	Totals struct {
		checkedCounts
		Repositories, Failed, Rejected int
		Seconds                        *int
	}
}

type checkedCounts struct {
	Copy, Tag, Unchanged, Skipped, Waiting, Kept, Unverified, Signed, Referrers, Pulls int
	Bytes                                                                              *int64
	PullsAtLeast                                                                       bool `json:"pulls_at_least"`
	BytesAtLeast                                                                       bool `json:"bytes_at_least"`
}

// check runs planner check. It returns the output and the exit code.
func (s *site) check(code int) (found checked) {
	s.t.Helper()
	p := s.planner("check", "-o", "json", "--exit-code")
	p.exits(code)
	decoder := json.NewDecoder(strings.NewReader(p.stdout.String()))
	decoder.DisallowUnknownFields()
	require.NoError(s.t, decoder.Decode(&found))
	return found
}

// TestCheck: a check forecasts exactly what a run then does. It needs no broker and no pull.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/tool", "osism/gone")
	s.env["SKOPEO_PATH"] = "/no/such/skopeo"
	rows := func(p *process) (rows []string) {
		for line := range strings.Lines(p.stdout.String()) {
			rows = append(rows, strings.Join(strings.Fields(line), " "))
		}
		return rows
	}

	p := s.planner("check", "--exit-code")
	require.Contains(t, p.exits(1), s.source.Host()+"/osism/gone (line 3):\n      the registry has no such repository")
	table := rows(p)
	require.Equal(t, []string{
		"REPOSITORY COPY UNCHANGED FAILED PULLS BYTES",
		s.source.Host() + "/osism/tool 2 0 0 2 unknown",
		s.source.Host() + "/osism/gone 0 0 1 0+ unknown",
		"total 2 0 1 2+ unknown",
	}, table[:4])

	s.write("osism/tool")
	s.planner("check").exits(0)
	require.NotContains(t, s.planner("check", "--exit-code").exits(4), "planner:")
	require.Zero(t, s.source.Pulls())
	repositories, err := s.destination.Repositories()
	require.NoError(t, err)
	require.Empty(t, repositories)

	delete(s.env, "SKOPEO_PATH")
	s.planner("mirror").exits(0)
	s.source.ResetRequests()
	require.Contains(t, s.planner("check", "--exit-code").exits(0), "Nothing to do in 1 repository.")

	_, err = s.source.PushIndex("osism/tool", "2", registrytest.MultiPlatform("2", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	require.NoError(t, s.source.Tag("osism/tool", "latest", s.push("osism/tool", "1")[0]))
	found := s.check(4)
	require.Len(t, found.Repositories, 1)
	row := found.Repositories[0]
	require.Equal(t, s.source.Host()+"/osism/tool", row.Repository)
	require.Equal(t, s.env["MIRROR_DEST_URL"]+"/osism/tool", row.Destination)
	require.Equal(t, []int{1, 1, 1, 0, 1}, []int{row.Copy, row.Tag, row.Unchanged, row.Skipped, row.Pulls})
	require.True(t, row.PullsAtLeast)
	require.Nil(t, row.Bytes)
	require.NotNil(t, row.Failed)
	require.Equal(t, []int{1, 1, 1, 1, 0, 0, 1}, []int{
		found.Totals.Repositories, found.Totals.Copy, found.Totals.Tag, found.Totals.Unchanged, found.Totals.Skipped, found.Totals.Failed, found.Totals.Pulls,
	})
	require.Zero(t, s.source.Pulls())
}

// TestCheckTellsHowLong: without a broker, a check keeps the request limit of quay.io, and learns
// from Docker Hub how many pulls are left.
func TestCheckTellsHowLong(t *testing.T) {
	t.Parallel()
	const repositories = 40
	o := newOnline(t, []registrytest.Option{registrytest.WithRequestLimit(5, 25, registrytest.KindBulkList)},
		[]registrytest.Option{registrytest.WithPullLimit(100, 6*time.Hour)})
	var entries []string
	for i := range repositories {
		name := fmt.Sprintf("osism/service%02d", i)
		require.NoError(t, o.Quay.AddSynthetic(name, registrytest.Synthetic{Tags: []string{"1"}}))
		require.NoError(t, o.destination.AddSynthetic(prefix+"/"+name, registrytest.Synthetic{Tags: []string{"1"}}))
		entries = append(entries, "quay.io/"+name)
	}
	for _, tag := range registrytest.Numbered("%d", 120) {
		_, err := o.Hub.PushImage("library/tool", tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
	o.Hub.SpendPulls(70)
	o.writeOnline(append(entries, "tool")...)

	found := o.check(4)
	require.Equal(t, []int{repositories, 120, 120}, []int{found.Totals.Unchanged, found.Totals.Copy, found.Totals.Pulls})
	require.Positive(t, *found.Totals.Bytes)
	require.Len(t, found.Registries, 1)
	hub := found.Registries[0]
	require.Equal(t, []any{"docker.io", 100, "6h", "header", 30}, []any{hub.Registry, hub.Limit, hub.Window, hub.Origin, *hub.Free})
	require.InDelta(t, (6*time.Hour + time.Minute).Seconds(), *hub.Seconds, time.Minute.Seconds())
	require.Equal(t, hub.Seconds, found.Totals.Seconds)
	require.Zero(t, o.Quay.Count(refusals))
	require.Len(t, count(o.Quay, listings, repository), repositories)
	require.Zero(t, o.Hub.Pulls())
	require.Equal(t, 1, o.Hub.Count(heads))
	require.NoDirExists(t, o.env["DATA_DIR"])

	later := o.with("CHUNK_SIZE", "1", "CHUNK_INTERVAL", "1h", "RATE_LIMITS", "docker.io=200/1h").check(4)
	require.Equal(t, []any{"RATE_LIMITS", 0}, []any{later.Registries[0].Origin, *later.Registries[0].Seconds})
	require.Equal(t, int((repositories * time.Hour).Seconds()), *later.Totals.Seconds)
}

// TestCheckAsksTheFleet: a check uses what the workers have spent and learned.
func TestCheckAsksTheFleet(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t, registrytest.WithPullLimit(10, time.Hour))
	s.push("osism/tool", "1", "2", "3")
	_, err := s.source.PushIndex("osism/tool", "arm", registrytest.Index{Images: []registrytest.Image{{Platform: "linux/arm64"}}})
	require.NoError(t, err)
	s.write("osism/tool")
	s.env["PLATFORMS"] = "linux/amd64"
	require.Equal(t, 4, s.check(4).Totals.Copy)
	s.worker()
	s.planner("plan", "--wait").exits(0)

	found := s.check(0)
	require.Equal(t, []int{0, 3, 1}, []int{found.Totals.Copy, found.Totals.Unchanged, found.Totals.Skipped})
	require.Empty(t, found.Registries)

	s.push("osism/tool", registrytest.Numbered("new%d", 8)...)
	found = s.check(4)
	require.Len(t, found.Registries, 1)
	require.Equal(t, 10-4, *found.Registries[0].Free)
	require.InDelta(t, time.Hour.Seconds(), *found.Registries[0].Seconds, 2*time.Minute.Seconds())
	require.Equal(t, 4, s.source.Pulls())
	s.with("NATS_URL", "nats://127.0.0.1:1").planner("check").exits(3)
}

// TestCheckAsksTheStore: a check uses the budgets of planner mirror on the same machine, while that
// runs and afterwards.
func TestCheckAsksTheStore(t *testing.T) {
	t.Parallel()
	s := newSite(t, registrytest.WithPullLimit(10, time.Hour))
	s.push("osism/tool", "1", "2")
	s.write("osism/tool")
	open := s.gate(pulls)
	mirror := s.planner("mirror")
	s.waitFor(pulls)
	require.Less(t, *s.check(4).Registries[0].Free, 10)
	s.with("DATA_DIR", filepath.Join(t.TempDir(), "another")).check(4)
	open()
	mirror.exits(0)

	s.push("osism/tool", "3")
	require.Equal(t, 10-2, *s.check(4).Registries[0].Free)
}

// TestStatusEstimates: the estimated end follows from the pulls left and the budget.
func TestStatusEstimates(t *testing.T) {
	t.Parallel()
	const limit, tags, window = 10, 34, time.Hour
	s, _ := newFleet(t, registrytest.WithPullLimit(limit, window))
	s.push("osism/tool", registrytest.Numbered("%d", tags)...)
	s.write("osism/tool")
	s.env["CHUNK_SIZE"], s.env["CHUNK_INTERVAL"] = "1", "24h"
	planned := s.plan()
	status := s.status(planned)
	require.True(t, status.EstimatedAtLeast)
	require.True(t, status.Registries[0].ToPullAtLeast)

	s.worker()
	s.becomes(planned, run.StateSnoozed)
	status = s.status(planned)
	require.False(t, status.EstimatedAtLeast)
	require.Len(t, status.Registries, 1)
	at := status.Registries[0]
	require.Equal(t, []int{limit, limit, 0, tags - limit}, []int{at.Limit, at.Spent, *at.Free, at.ToPull})
	// It is in the third window, counted from the first token.
	require.Equal(t, at.EstimatedDone, status.EstimatedDone)
	require.WithinDuration(t, at.NextSlot.Add(2*window), *status.EstimatedDone, 2*time.Minute)
	require.Contains(t, s.planner("status").exits(0), "\n  done      about ")

	s.planner("cancel").exits(0)
	status = s.status(planned)
	require.Nil(t, status.EstimatedDone)
	require.Zero(t, status.Registries[0].ToPull)
}

// TestCheckCannot: if a check fails, it has the exit codes of planner plan.
func TestCheckCannot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Contains(t, s.planner("check").exits(3), s.list)
	s.writeList("containers: [7]\n")
	require.Contains(t, s.planner("check").exits(2), s.list+":1: ")
	require.Contains(t, s.planner("check", "now").exits(2), "unexpected \"now\"")

	s.push("osism/tool", "1")
	s.write("osism/tool")
	open := s.gate(registrytest.In("osism/tool"))
	defer open()
	p := s.planner("check")
	s.waitFor(registrytest.In("osism/tool"))
	p.signal(syscall.SIGINT)
	require.Contains(t, p.exits(4), "planner: unfinished: interrupted\n")
}
