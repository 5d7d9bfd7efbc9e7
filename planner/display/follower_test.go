package display

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/run"
)

var busy = run.Status{
	State:  run.StateRunning,
	Chunks: run.Chunks{Total: 240, Running: 2, Snoozed: 118, Done: 120},
	Images: run.Tally{Total: 800, Copied: 45, Tagged: 3, Unchanged: 400, Failed: 1},
	Bytes:  3 << 29,
}

// follower returns a follower with a clock that the test moves.
func follower(out *strings.Builder, terminal bool, width *int, clock *time.Time) *Follower {
	f := newFollower(out, colorNever, nil)
	if terminal {
		f.width = func() int { return *width }
	}
	f.now = func() time.Time { return *clock }
	return f
}

// shown returns the lines of a status at a width.
func shown(s run.Status, width int) string {
	v := view{Status: s, now: now, pace: &estimate.Pace{}}
	return strings.Join(v.lines(width), "\n")
}

func TestFollowerFitsTheTerminal(t *testing.T) {
	for width, want := range map[int]string{
		120: "[###########---------]  56%  449/800 images: 45 copied, 3 tagged, 400 unchanged, 1 failed  1.5 GiB\n120/240 chunks, 2 running",
		80:  "[###########---------]  56%  449/800 images, 1 failed  1.5 GiB\n120/240 chunks, 2 running",
		60:  "[#####-----]  56%  449/800 images, 1 failed  1.5 GiB\n120/240 chunks, 2 running",
		40:  "56%  449/800 images, 1 failed\n120/240 chunks, 2 running",
		20:  "56%\n120/240 chunks, 2 ru",
		3:   "56%\n120",
		0:   "",
	} {
		require.Equal(t, want, shown(busy, width), width)
	}
	busy := busy
	busy.UnderWay = copies
	busy.EstimatedDone = after(3*time.Hour + 12*time.Minute)
	require.Equal(t, "[#####-----]  56%  449/800 images, 1 failed  4.5 GiB at 12.0 MiB/s  3h12m to go", shown(busy, 79)[:79])
	for width := range 150 {
		for line := range strings.SplitSeq(shown(busy, width), "\n") {
			require.LessOrEqual(t, utf8.RuneCountInString(line), width)
		}
	}
}

func TestImagesUnderWay(t *testing.T) {
	s := busy
	s.UnderWay = copies
	require.Equal(t, `[#####-----]  56%  449/800 images, 1 failed  4.5 GiB at 12.0 MiB/s
120/240 chunks, 2 running
  quay.io/osism/a:1            3.0 GiB    12.0 MiB/s      5m
  quay.io/osism/long:2 [2J         0 B         0 B/s   1m30s`, shown(s, 70))
	long := copies[0]
	long.Image = "registry.example.com:5000/a/very/long/name/of/a/repository/that/does/not/fit:v1.2.3-alpha"
	s.UnderWay = []run.Copy{long, long, long, long, long, long, long}
	require.Contains(t, shown(s, 79), "\n  …/repository/that/does/not/fit:v1.2.3-alpha     3.0 GiB    12.0 MiB/s      5m\n")
	require.True(t, strings.HasSuffix(shown(s, 79), "\n  and 2 more"))
}

// TestProgress: progress counts images. It is an estimate until all chunks are resolved, and
// reaches 100 % only at the end.
func TestProgress(t *testing.T) {
	percent := func(s run.Status) string { return view{Status: s, now: now, pace: &estimate.Pace{}}.percent() }
	require.Equal(t, "28%", percent(run.Status{State: run.StateRunning, Chunks: run.Chunks{Total: 1, Running: 1}, Images: run.Tally{Total: 161, Copied: 46}}))
	half := run.Status{State: run.StateRunning, Chunks: run.Chunks{Total: 4, Running: 2, Done: 1, Waiting: 1}, Unresolved: 2, Images: run.Tally{Total: 10, Copied: 10}}
	require.Equal(t, "50%", percent(half), "the other chunks probably have as many")
	require.Contains(t, shown(half, 99), "10/10+ images: 10 copied")
	half.Unresolved = 0
	require.Equal(t, "99%", percent(half), "it is not over")
	half.State = run.StateFailed
	require.Equal(t, "100%", percent(half))
	half.State = run.StateCancelled
	require.Equal(t, "25%", percent(half))
	require.Equal(t, "0%", percent(run.Status{State: run.StateWaiting, Chunks: run.Chunks{Total: 4, Waiting: 4}, Unresolved: 4}))
}

// TestTimeLeft: the time left is by budget or by speed, whichever is longer.
func TestTimeLeft(t *testing.T) {
	s := run.Status{State: run.StateRunning, Chunks: run.Chunks{Total: 2, Running: 2}, Images: run.Tally{Total: 100, Copied: 40}}
	v := view{Status: s, now: now, pace: &estimate.Pace{}}
	require.Empty(t, v.toGo())
	v.pace.Add(now.Add(-10*time.Second), 30)
	v.pace.Add(now, 40)
	require.Equal(t, "~1m to go", v.toGo())
	v.EstimatedDone = after(30 * time.Second)
	require.Equal(t, "~1m to go", v.toGo())
	v.EstimatedDone = after(2 * time.Hour)
	require.Equal(t, "2h to go", v.toGo())
	v.EstimatedAtLeast = true
	require.Equal(t, "2h+ to go", v.toGo())
	v.EstimatedDone, v.EstimatedAtLeast = nil, false
	v.Chunks.Total, v.Unresolved = 4, 2
	require.Equal(t, "2m40s+ to go", v.toGo(), "the others probably have as many images")
	v.Chunks.Running = 0
	require.Empty(t, v.toGo(), "nothing moves")
}

func TestColors(t *testing.T) {
	v := view{Status: busy, now: now, pace: &estimate.Pace{}, colors: true}
	require.Equal(t, "\x1b[32m[###########---------]\x1b[0m  56%  449/800 images, \x1b[31m1 failed\x1b[0m  1.5 GiB", v.lines(79)[0])
	require.Equal(t, "120/240 chunks, 2 running", v.lines(79)[1])
	v.Chunks.Running = 0
	require.Equal(t, "\x1b[33m120/240 chunks, waiting for a worker\x1b[0m", v.lines(79)[1])
	v.State = run.StateFailed
	require.Equal(t, "\x1b[31m120/240 chunks, done, with failures\x1b[0m", v.lines(79)[1])
	v.State = run.StateDone
	require.Contains(t, v.lines(79)[1], "\x1b[32m")

	for _, c := range []struct {
		color         Color
		terminal      bool
		noColor, term string
		want          bool
	}{
		{ColorAuto, true, "", "xterm", true}, {ColorAuto, false, "", "xterm", false}, {ColorAuto, true, "1", "xterm", false},
		{ColorAuto, true, "", "dumb", false}, {colorAlways, false, "1", "dumb", true}, {colorNever, true, "", "xterm", false},
	} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.term)
		require.Equal(t, c.want, c.color.On(c.terminal), c)
	}
	color := ColorAuto
	require.Error(t, color.UnmarshalText([]byte("sometimes")))
	require.NoError(t, color.UnmarshalText([]byte("never")))
	require.Equal(t, colorNever, color)
}

func TestFollowerOnATerminal(t *testing.T) {
	var out strings.Builder
	clock, width := now, 100
	f := follower(&out, true, &width, &clock)
	take := func() string {
		defer out.Reset()
		return strings.ReplaceAll(strings.ReplaceAll(out.String(), clearAbove, "^"), clearLine, "<")
	}
	f.Done()
	require.Empty(t, take(), "nothing was there to show")

	s := run.Status{State: run.StateSnoozed, Chunks: run.Chunks{Total: 2, Snoozed: 1, Done: 1}, NextDue: after(3*time.Hour + 12*time.Minute)}
	f.Update(s)
	require.Equal(t, "<[--------------------]  0%\n1/2 chunks, next chunk due in 3h12m", take())

	clock = clock.Add(time.Hour)
	f.Update(s)
	require.Equal(t, "<^[--------------------]  0%\n1/2 chunks, next chunk due in 2h12m", take())

	_, err := fmt.Fprintln(f.Above(&out), "a warning")
	require.NoError(t, err)
	require.Equal(t, "<^a warning\n[--------------------]  0%\n1/2 chunks, next chunk due in 2h12m", take())

	waits := func() string {
		f.Update(s)
		_, text, _ := strings.Cut(take(), "\n")
		return text
	}
	clock = clock.Add(3 * time.Hour)
	require.Equal(t, "1/2 chunks, waiting for a worker", waits())
	s.Away = []string{"quay.io", "target.example.com"}
	require.Equal(t, "1/2 chunks, waiting for quay.io, target.example.com (away)", waits())
	s.Away = nil
	s.NextDue, s.WorkerMissing = after(6*time.Hour), true
	require.Equal(t, "1/2 chunks, waiting for a worker", waits(), "one chunk is due, another one later")

	s.EstimatedDone, s.EstimatedAtLeast = after(10*time.Hour), true
	f.Update(s)
	require.Contains(t, take(), "]  0%  6h+ to go\n")

	f.Update(run.Status{State: run.StateFailed, Chunks: run.Chunks{Total: 2, Done: 2}, Images: run.Tally{Total: 1, Failed: 1}, UnderWay: copies})
	out.Reset()
	f.Done()
	require.Equal(t, "<^^^[####################]  100%  1/1 image: 1 failed\n2/2 chunks, done, with failures\n", take(), "nothing is under way any more")

	_, err = fmt.Fprintln(f.Above(&out), "a warning")
	require.NoError(t, err)
	require.Equal(t, "a warning\n", take(), "the lines are finished")
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
	require.Equal(t, "2026-03-01 14:00:00 CET  0/1 chunk, next chunk due in 1m\n", take(), "the first at once")

	clock = clock.Add(30 * time.Second)
	f.Update(s)
	require.Empty(t, take(), "nothing changed but the time")

	f.Update(busy)
	require.Equal(t, "2026-03-01 14:00:30 CET  449/800 images: 45 copied, 3 tagged, 400 unchanged, 1 failed; 120/240 chunks, 2 running; 1.5 GiB\n", take())

	later := busy
	later.Chunks.Done++
	clock = clock.Add(9 * time.Second)
	f.Update(later)
	require.Empty(t, take(), "too early")
	clock = clock.Add(time.Second)
	f.Update(later)
	require.Contains(t, take(), "; 121/240 chunks")

	later.UnderWay = []run.Copy{copies[0]}
	clock = clock.Add(plainInterval)
	f.Update(later)
	require.Contains(t, take(), "; 4.5 GiB at 12.0 MiB/s; 1 image under way")
	clock = clock.Add(plainInterval)
	f.Update(later)
	require.Empty(t, take(), "nothing moves")

	later.Chunks.Done++
	f.Update(later)
	take()
	later.Chunks.Done++
	f.Update(later)
	require.Empty(t, take())
	f.Done()
	require.Contains(t, take(), "; 123/240 chunks", "the last state is always shown")
	f.Done()
	require.Empty(t, take(), "but once")

	_, err := fmt.Fprintln(f.Above(&out), "a warning")
	require.NoError(t, err)
	require.Equal(t, "a warning\n", take())
}
