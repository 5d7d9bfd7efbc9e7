package display

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
)

var busy = run.Status{
	State:  run.StateRunning,
	Chunks: run.Chunks{Total: 240, Running: 2, Done: 120},
	Images: run.Tally{Total: 800, Copied: 45, Tagged: 3, Unchanged: 400, Failed: 1},
	Bytes:  3 << 29,
}

// follower is one with a clock that only the test moves.
func follower(out *strings.Builder, terminal bool, width *int, clock *time.Time) *Follower {
	f := NewFollower(out, terminal, func() int { return *width })
	f.now = func() time.Time { return *clock }
	return f
}

func TestFollowerFitsTheTerminal(t *testing.T) {
	for width, want := range map[int]string{
		200: "[##########----------]  120/240 chunks  449/800 images: 45 copied, 3 tagged, 400 unchanged, 1 failed  2 running  1.5 GiB",
		115: "[##########----------]  120/240 chunks  449/800 images: 45 copied, 3 tagged, 400 unchanged, 1 failed  2 running",
		80:  "[#####-----]  120/240 chunks  449/800 images, 1 failed  2 running",
		60:  "120/240 chunks  449/800 images, 1 failed  2 running",
		30:  "120/240 chunks  2 running",
		20:  "120/240 chunks",
		8:   "120/240",
		1:   "",
		0:   "",
	} {
		var out strings.Builder
		clock := now
		f := follower(&out, true, &width, &clock)
		f.Update(busy)
		require.Equal(t, "\r\x1b[K"+want, out.String(), width)
	}
	busy := busy
	busy.EstimatedDone = after(3*time.Hour + 12*time.Minute)
	require.Equal(t, "[#####-----]  120/240 chunks  449/800 images, 1 failed  2 running  3h12m to go", line(busy, now, 79))
	for width := range 150 {
		require.LessOrEqual(t, len(line(busy, now, width)), width)
	}
}

func TestFollowerOnATerminal(t *testing.T) {
	var out strings.Builder
	clock, width := now, 100
	f := follower(&out, true, &width, &clock)
	take := func() string {
		defer out.Reset()
		return strings.ReplaceAll(out.String(), "\r\x1b[K", "<")
	}
	f.Done()
	require.Empty(t, take(), "nothing was there to show")

	s := run.Status{State: run.StateSnoozed, Chunks: run.Chunks{Total: 2, Snoozed: 1, Done: 1}, NextDue: after(3*time.Hour + 12*time.Minute)}
	f.Update(s)
	require.Equal(t, "<[##########----------]  1/2 chunks  next chunk due in 3h12m", take())

	clock = clock.Add(time.Hour)
	f.Update(s)
	require.Equal(t, "<[##########----------]  1/2 chunks  next chunk due in 2h12m", take())

	_, err := fmt.Fprintln(f.Above(&out), "a warning")
	require.NoError(t, err)
	require.Equal(t, "<a warning\n[##########----------]  1/2 chunks  next chunk due in 2h12m", take())

	clock = clock.Add(3 * time.Hour)
	f.Update(s)
	require.Equal(t, "<[##########----------]  1/2 chunks  waiting for a worker", take())

	s.Away = []string{"quay.io", "target.example.com"}
	f.Update(s)
	require.Equal(t, "<[##########----------]  1/2 chunks  waiting for quay.io, target.example.com (away)", take())
	s.Away = nil

	s.NextDue, s.WorkerMissing = after(6*time.Hour), true
	f.Update(s)
	require.Equal(t, "<[##########----------]  1/2 chunks  waiting for a worker", take(), "one chunk is due, another one later")
	s.NextDue = after(3*time.Hour + 12*time.Minute)

	s.EstimatedDone, s.EstimatedAtLeast = after(10*time.Hour), true
	f.Update(s)
	require.Equal(t, "<[##########----------]  1/2 chunks  waiting for a worker  6h+ to go", take())

	f.Update(run.Status{State: run.StateFailed, Chunks: run.Chunks{Total: 2, Done: 2}, Images: run.Tally{Total: 1, Failed: 1}})
	f.Done()
	last := "<[####################]  2/2 chunks  1/1 image: 1 failed  done, with failures"
	require.Equal(t, last+last+"\n", take())

	_, err = fmt.Fprintln(f.Above(&out), "a warning")
	require.NoError(t, err)
	require.Equal(t, "a warning\n", take(), "the line is finished")
}

func TestFollowerElsewhere(t *testing.T) {
	var out strings.Builder
	clock, width := now, 0
	f := follower(&out, false, &width, &clock)
	take := func() string {
		defer out.Reset()
		return out.String()
	}
	s := run.Status{State: run.StateWaiting, Chunks: run.Chunks{Total: 1, Waiting: 1}, NextDue: after(time.Minute)}
	f.Update(s)
	require.Equal(t, "2026-03-01 14:00:00 CET  0/1 chunk; next chunk due in 1m\n", take(), "the first at once")

	clock = clock.Add(30 * time.Second)
	f.Update(s)
	require.Empty(t, take(), "nothing changed but the time")

	f.Update(busy)
	require.Equal(t, "2026-03-01 14:00:30 CET  120/240 chunks; 449/800 images: 45 copied, 3 tagged, 400 unchanged, 1 failed; 2 running; 1.5 GiB\n", take())

	later := busy
	later.Chunks.Done++
	clock = clock.Add(9 * time.Second)
	f.Update(later)
	require.Empty(t, take(), "too early")
	clock = clock.Add(time.Second)
	f.Update(later)
	require.Contains(t, take(), "CET  121/240 chunks")

	later.Chunks.Done++
	f.Update(later)
	require.Empty(t, take())
	f.Done()
	require.Contains(t, take(), "CET  122/240 chunks", "the last state is always shown")
	f.Done()
	require.Empty(t, take(), "but once")

	_, err := fmt.Fprintln(f.Above(&out), "a warning")
	require.NoError(t, err)
	require.Equal(t, "a warning\n", take())
}
