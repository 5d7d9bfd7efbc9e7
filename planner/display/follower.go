package display

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/run"
)

// plainInterval is the least time between two lines without a terminal.
const plainInterval = 10 * time.Second

// Follower shows a run until it ends: on a terminal as some lines that are redrawn, elsewhere as
// a new line when something has changed.
type Follower struct {
	terminal bool
	colors   bool
	width    func() int
	now      func() time.Time

	*Drawn // on a terminal

	mu      sync.Mutex
	status  *run.Status // the latest, nil before the first
	pace    estimate.Pace
	printed progress
	at      time.Time // of the last plain line
}

// progress is the part of a status whose change is worth a new plain line.
type progress struct {
	state  string
	chunks run.Chunks
	images run.Tally
	pulls  int
	bytes  string
}

// NewFollower returns a follower. width returns the columns of the terminal; without a
// terminal, it is not called.
func NewFollower(w io.Writer, terminal bool, color Color, width func() int) *Follower {
	return &Follower{Drawn: NewDrawn(w), terminal: terminal, colors: terminal && color.On(terminal), width: width, now: time.Now}
}

// Update shows a new status.
func (f *Follower) Update(s run.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = &s
	now := f.now()
	f.pace.Add(now, s.Images.Ended())
	if f.terminal {
		f.draw(now)
	} else if f.at.IsZero() || now.Sub(f.at) >= plainInterval {
		f.print(now)
	}
}

// Done keeps the last state on the screen, and ends the line.
func (f *Follower) Done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status == nil {
		return
	}
	if f.terminal {
		f.status.UnderWay = nil // these copies have ended
		f.draw(f.now())
		f.keep()
		return
	}
	f.print(f.now())
}

func (f *Follower) view(now time.Time) view {
	return view{Status: *f.status, now: now, pace: &f.pace, colors: f.colors}
}

func (f *Follower) draw(now time.Time) {
	// The last column stays free: some terminals wrap as soon as it is written.
	f.Draw(strings.Join(f.view(now).lines(f.width()-1), "\n"))
}

func (f *Follower) print(now time.Time) {
	s, v := f.status, f.view(now)
	next := progress{s.State, s.Chunks, s.Images, s.Pulls, v.bytes()}
	if !f.at.IsZero() && next == f.printed {
		return
	}
	f.printed, f.at = next, now
	_, _ = fmt.Fprintf(f.Above(f.w), "%s  %s\n", moment(now), strings.Join(present(v.images(true), v.chunks(), v.bytes(), v.underWayCount(), v.toGo()), "; "))
}
