package display

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// now is 14:00 in the time zone of the tests.
var now = time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	zone = time.FixedZone("CET", 3600)
	os.Exit(m.Run())
}

func after(d time.Duration) *time.Time {
	t := now.Add(d)
	return &t
}

func TestPlan(t *testing.T) {
	var out strings.Builder
	Plan(&out, []PlannedChunk{
		{Number: 1, Due: now, Registry: "quay.io", Entries: []string{"quay.io/osism/a", "quay.io/osism/b:1.0"}},
		{Number: 1, Due: now, Registry: "docker.io", Entries: []string{"docker.io/library/nginx"}},
		{Number: 2, Due: now.Add(90 * time.Minute), Registry: "quay.io", Entries: []string{"quay.io/osism/c"}},
	}, now)
	require.Equal(t, `CHUNK  DUE                                 REGISTRY   ENTRIES
    1  now                                 quay.io    quay.io/osism/a
                                                      quay.io/osism/b:1.0
    1  now                                 docker.io  docker.io/library/nginx
    2  2026-03-01 15:30:00 CET (in 1h30m)  quay.io    quay.io/osism/c

4 entries in 3 chunks, the last due in 1h30m.
`, out.String())

	out.Reset()
	Plan(&out, nil, now)
	require.Equal(t, "The plan is empty: there is no such chunk.\n", out.String())
}

func TestStatus(t *testing.T) {
	s := run.Status{
		Name: "default", Run: "20260301-124800-000-abcd", State: run.StateRunning,
		Chunks: run.Chunks{Total: 24, Waiting: 15, Running: 2, Snoozed: 3, Done: 4},
		Images: run.Tally{Total: 456, Copied: 100, Tagged: 3, Unchanged: 10, Failed: 1},
		Pulls:  120, Bytes: 1288490188, Started: now.Add(-12 * time.Minute), NextDue: after(3*time.Hour + 12*time.Minute),
		EstimatedDone: after(17*time.Hour + 30*time.Minute),
		Registries: []run.Registry{
			{Registry: "docker.io", Limit: 100, Window: "6h", Spent: 97, Free: new(3), ClosedUntil: after(time.Minute), Reason: "429 Too Many\x1b[2J Requests",
				ToPull: 412, EstimatedDone: after(17*time.Hour + 30*time.Minute)},
			{Registry: "ghcr.io", ClosedUntil: after(-time.Minute), Reason: "long over", ToPullAtLeast: true},
			{Registry: "quay.io", Limit: 20, Window: "1s", Spent: 20, Free: new(0), NextSlot: after(time.Second), ToPull: 7, ToPullAtLeast: true, EstimatedDone: after(time.Second)},
			{Registry: "registry.example.com:5000", Limit: 5, Window: "1s"},
			{Registry: "target.example.com", ClosedSince: after(-3 * time.Hour), ClosedUntil: after(-time.Second), Reason: "unavailable (503)"},
		},
	}
	var out strings.Builder
	Status(&out, s, now, Screen{})
	require.Equal(t, `Mirror "default", run 20260301-124800-000-abcd: running
  started   2026-03-01 13:48:00 CET (12m ago)
  chunks    24: 4 done, 2 running, 3 snoozed, 15 waiting
  images    456: 100 copied, 3 tagged, 10 unchanged, 1 failed
  pulls     120
  copied    1.2 GiB
  next due  2026-03-01 17:12:00 CET (in 3h12m)
  done      about 2026-03-02 07:30:00 CET (in 17h30m)

  REGISTRY                   BUDGET      SPENT  FREE  TO PULL  DONE       STATE
  docker.io                  100 per 6h     97     3     ~412  in 17h30m  closed for 1m
  ghcr.io                    none known      -     -  unknown  -          open
  quay.io                    20 per 1s      20     0      ~7+  in 1s      spent, next in 1s
  registry.example.com:5000  5 per 1s        -     -        0  -          open
  target.example.com         none known      -     -        0  -          away for 3h
  docker.io is closed until 2026-03-01 14:01:00 CET: 429 Too Many [2J Requests
  target.example.com has been away since 2026-03-01 11:00:00 CET: unavailable (503)

List the failures with: planner failed
`, out.String())

	out.Reset()
	Status(&out, run.Status{
		Name: "default", Run: "r", State: run.StateDone, Chunks: run.Chunks{Total: 1, Done: 1},
		Started: now.Add(-2 * time.Hour), Finished: after(-time.Hour),
	}, now, Screen{})
	require.Equal(t, `Mirror "default", run r: done
  started   2026-03-01 12:00:00 CET (2h ago)
  finished  2026-03-01 13:00:00 CET (took 1h)
  chunks    1: 1 done
  images    0
  pulls     0
  copied    0 B
`, out.String())
}

func TestEstimate(t *testing.T) {
	at := after(90 * time.Minute)
	for want, s := range map[string]run.Status{
		"about 2026-03-01 15:30:00 CET (in 1h30m)":                         {EstimatedDone: at},
		"2026-03-01 15:30:00 CET (in 1h30m) at the earliest":               {EstimatedDone: at, EstimatedAtLeast: true},
		"unknown until more chunks are resolved":                           {EstimatedAtLeast: true},
		"as soon as everything is copied; no budget or schedule delays it": {},
	} {
		require.Equal(t, want, estimateText(s, now))
	}
}

func TestRuns(t *testing.T) {
	var out strings.Builder
	Runs(&out, []run.Status{
		{Run: "b", State: run.StateRunning, Started: now.Add(-90 * time.Second), Chunks: run.Chunks{Total: 24, Done: 4}},
		{Run: "a", State: run.StateFailed, Started: now.Add(-26 * time.Hour), Finished: after(-25 * time.Hour),
			Chunks: run.Chunks{Total: 24, Done: 24}, Images: run.Tally{Total: 812, Copied: 40, Failed: 2}, Pulls: 80},
		{Run: "0", State: run.StateSuperseded, Started: now.Add(-50 * time.Hour), Chunks: run.Chunks{Total: 24}},
	}, now, Screen{})
	require.Equal(t, `RUN  STATE        TOOK  CHUNKS  IMAGES  COPIED  FAILED  PULLS
b    running     1m30s    4/24       0       0       0      0
a    done           1h   24/24     812      40       2     80
0    superseded      -    0/24       0       0       0      0
`, out.String())

	out.Reset()
	Runs(&out, nil, now, Screen{})
	require.Equal(t, "No runs in the last 30 days.\n", out.String())
}

func TestStatusCountsFailures(t *testing.T) {
	s := run.Status{Name: "default", Run: "r1", State: run.StateDone, Started: now, Finished: after(time.Minute)}
	show := func() string {
		var out strings.Builder
		Status(&out, s, now, Screen{})
		return out.String()
	}
	require.NotContains(t, show(), "failure")
	s.Failures = run.Failures{Images: 12, LeftList: 3, Unreadable: 1}
	require.Contains(t, show(), "\n  failures  12 kept for republish, 3 left the list, 1 unreadable\n")
	require.Contains(t, show(), "\n\nList the failures with: planner failed\n")
	s.Failures = run.Failures{LeftList: 3}
	require.Contains(t, show(), "\n  failures  3 left the list\n")
}

func TestFailures(t *testing.T) {
	osism := failure.Record{
		Repository: "quay.io/osism/osism", Chunk: 4, Run: "20260301-124800-000-abcd", FailedAt: now,
		Images: []failure.Image{
			{Source: "quay.io/osism/osism:1.0", Attempts: 5, Reason: "writing blob sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef:\n" +
				"the destination answered 500 Internal Server Error\x1b[31m"},
			{Source: "quay.io/osism/osism:1.1", Attempts: 1, Reason: "manifest unknown"},
		},
	}
	gone := failure.Record{Repository: "docker.io/library/gone", Run: "20260301-130000-000-0001", Images: []failure.Image{
		{Source: "docker.io/library/gone", Attempts: 1, Reason: "no such repository"},
	}}
	var out strings.Builder
	Failures(&out, "default", []failure.Record{osism, gone}, nil)
	require.Equal(t, `quay.io/osism/osism (chunk 4 of run 20260301-124800-000-abcd, 2026-03-01 14:00:00 CET)
  quay.io/osism/osism:1.0, 5 attempts:
      writing blob
      sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef:
      the destination answered 500 Internal Server Error [31m
  quay.io/osism/osism:1.1, 1 attempt:
      manifest unknown

docker.io/library/gone (run 20260301-130000-000-0001)
  docker.io/library/gone (the repository itself), 1 attempt:
      no such repository

3 images of 2 repositories failed. Once you have fixed the cause, retry with:
  planner republish --all
`, out.String())

	out.Reset()
	Failures(&out, "default", []failure.Record{gone}, nil)
	require.True(t, strings.HasSuffix(out.String(), "\n  planner republish docker.io/library/gone\n"), out.String())

	out.Reset()
	Failures(&out, "default", nil, []string{"default"})
	require.Equal(t, "There are no failed images under the name default.\n", out.String())

	out.Reset()
	Failures(&out, "default", nil, []string{"default", "nightly", "weekly"})
	require.Equal(t, "There are no failed images under the name default.\nSet MIRROR_NAME to see those of another name: nightly, weekly.\n", out.String())

	// Equal reasons are shown once.
	alike := failure.Record{Repository: "quay.io/a/b", Run: "r", Images: []failure.Image{
		{Source: "quay.io/a/b:1", Attempts: 5, Reason: "timeout"},
		{Source: "quay.io/a/b:2", Attempts: 1, Reason: "denied"},
		{Source: "quay.io/a/b:3", Attempts: 4, Reason: "timeout"},
		{Source: "quay.io/a/b:4", Attempts: 1, Reason: "look up quay.io/a/b:4: denied (403)"},
		{Source: "quay.io/a/b:5", Attempts: 1, Reason: "look up quay.io/a/b:5: denied (403)"},
	}}
	out.Reset()
	Failures(&out, "default", []failure.Record{alike}, nil)
	require.Contains(t, out.String(), `
  quay.io/a/b:1, 5 attempts
  quay.io/a/b:3, 4 attempts:
      timeout
  quay.io/a/b:2, 1 attempt:
      denied
  quay.io/a/b:4, 1 attempt
  quay.io/a/b:5, 1 attempt:
      look up the image: denied (403)
`)

	var lost []failure.Record
	for _, repository := range []string{"quay.io/a/b", "quay.io/a/c"} {
		lost = append(lost, failure.Record{Repository: repository, Images: []failure.Image{{Source: repository, Attempts: 1, Reason: "list tags of " + repository + ": not found (404)"}}})
	}
	groups := byReason(lost)
	require.Len(t, groups, 1)
	require.Equal(t, "list tags of the repository: not found (404)", groups[0].reason)

	osism.Images[0].LeftList = now.Add(-time.Hour)
	out.Reset()
	Failures(&out, "default", []failure.Record{osism}, nil)
	require.Equal(t, `quay.io/osism/osism (chunk 4 of run 20260301-124800-000-abcd, 2026-03-01 14:00:00 CET)
  quay.io/osism/osism:1.1, 1 attempt:
      manifest unknown

1 image of 1 repository failed. Once you have fixed the cause, retry with:
  planner republish quay.io/osism/osism

quay.io/osism/osism (chunk 4 of run 20260301-124800-000-abcd, 2026-03-01 14:00:00 CET)
  quay.io/osism/osism:1.0, 5 attempts, left the list by 2026-03-01 13:00:00 CET:
      writing blob
      sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef:
      the destination answered 500 Internal Server Error [31m

The list no longer has 1 failed image of 1 repository; kept for 30d. Delete now with:
  planner forget --left-list
`, out.String())

	out.Reset()
	Failures(&out, "default", []failure.Record{{Repository: "message 7 on mirror.failed.x\x1b[2J", FailedAt: now, Unreadable: true, Images: []failure.Image{
		{Reason: "this is not a failure record (unexpected end of JSON input): \"\\x1b[31m\""},
	}}}, nil)
	require.Equal(t, `There are no failed images under the name default.

message 7 on mirror.failed.x [2J (2026-03-01 14:00:00 CET)
      this is not a failure record (unexpected end of JSON input): "\x1b[31m"

1 message among the failures cannot be read. Delete one with:
  planner forget 'message 7 on mirror.failed.x [2J'
`, out.String())
}

func TestSummary(t *testing.T) {
	s := run.Status{
		Run: "r1", State: run.StateFailed, Chunks: run.Chunks{Total: 3, Done: 3}, Pulls: 20, Bytes: 5 << 20,
		Images: run.Tally{Total: 426, Copied: 12, Tagged: 2, Unchanged: 400, Failed: 12},
	}
	record := failure.Record{Repository: "quay.io/a/b"}
	for i := range 12 {
		record.Images = append(record.Images, failure.Image{Source: fmt.Sprintf("quay.io/a/b:%d", i), Attempts: 5, Reason: fmt.Sprintf("timeout %d", min(i, 10))})
	}
	var out strings.Builder
	s.Started, s.Finished = now.Add(-3*time.Minute-12*time.Second), &now
	Summary(&out, s, []failure.Record{record}, now.Add(time.Hour), Screen{})
	var shown strings.Builder
	shown.WriteString("  quay.io/a/b:10, 5 attempts, and 1 more:\n      timeout 10\n")
	for i := range 9 {
		fmt.Fprintf(&shown, "  quay.io/a/b:%d, 5 attempts:\n      timeout %d\n", i, i)
	}
	require.Equal(t, `
Run r1 ended with failures after 3m12s: 426 images.
  copied         12  (5.0 MiB)
  tagged          2
  unchanged     400
  skipped         0
  vanished        0
  failed         12
  pulls          20

12 images failed:
`+shown.String()+`  … and 1 more

List all with:    planner failed
Retry them with:  planner republish quay.io/a/b
`, out.String())
}

func TestSummaryOfNothing(t *testing.T) {
	show := func(s run.Status) string {
		var out strings.Builder
		Summary(&out, s, nil, now, Screen{})
		return out.String()
	}
	nothing := run.Status{Run: "r", State: run.StateDone, Chunks: run.Chunks{Total: 1, Done: 1}}
	require.Contains(t, show(nothing), "\n\nwarning: the list selects no image; planner check shows why\n")
	nothing.Images.Total = 1
	require.NotContains(t, show(nothing), "warning")
}

func TestSummaryHeadline(t *testing.T) {
	for state, want := range map[string]string{
		run.StateDone:       "Run r is done after 5s: 2 images.",
		run.StateSnoozed:    "Run r is unfinished after 5s: 1 of 3 chunks done. The rest is kept; the next worker continues it.",
		run.StateSuperseded: "Run r was superseded after 5s: 1 of 3 chunks done.",
		run.StateLost:       "Run r has LOST 2 of 3 chunks after 5s; 1 done. Lost chunks are neither done nor at the broker, and the run was not ended: plan again.",
	} {
		var out strings.Builder
		Summary(&out, run.Status{Run: "r", State: state, Chunks: run.Chunks{Total: 3, Done: 1, Lost: 2}, Images: run.Tally{Total: 2}, Started: now.Add(-5 * time.Second)}, nil, now, Screen{})
		require.Equal(t, want, strings.Split(out.String(), "\n")[1])
		require.NotContains(t, out.String(), "planner failed")
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 1 << 40: "1.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		require.Equal(t, want, Size(bytes))
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", time.Millisecond: "1s", time.Minute: "1m", 61 * time.Second: "1m1s",
		time.Hour - time.Millisecond: "1h", 3*time.Hour + 12*time.Minute + time.Second: "3h12m", 49 * time.Hour: "2d1h",
	} {
		require.Equal(t, want, span(d), d)
	}
}

func TestTerminal(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _, _ = read.Close(), write.Close() }()
	require.Nil(t, Width(write))

	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err, "the test needs a terminal, which every system has that has /dev/pts")
	defer func() { _ = terminal.Close() }()
	require.Equal(t, 80, Width(terminal)(), "its width is unknown")
}
