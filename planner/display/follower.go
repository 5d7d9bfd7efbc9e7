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

// plainInterval is the least time between two lines if the output is not a terminal.
const plainInterval = 10 * time.Second

// Follower shows a run until it ends. On a terminal, it redraws a few lines. Otherwise, it prints a new
// line when something has changed.
type Follower struct {
	colors bool
	width  func() int // columns of the terminal; nil if the output is not a terminal
	now    func() time.Time

	*Drawn // used only on a terminal

	mu      sync.Mutex
	status  *run.Status // the last status, nil before the first
	pace    estimate.Pace
	printed progress
	at      time.Time // of the last plain line
}

// progress is the part of a status whose change causes a new plain line.
type progress struct {
	state  string
	chunks run.Chunks
	images run.Tally
	pulls  int
	bytes  string
}

// NewFollower returns a follower that writes to w.
func NewFollower(w io.Writer, color Color) *Follower {
	return newFollower(w, color, Width(w))
}

func newFollower(w io.Writer, color Color, width func() int) *Follower {
	return &Follower{Drawn: NewDrawn(w), colors: width != nil && color.On(true), width: width, now: time.Now}
}

// Update shows a new status.
func (f *Follower) Update(s run.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = &s
	now := f.now()
	f.pace.Add(now, s.Images.Ended())
	if f.width != nil {
		f.draw(now)
	} else if f.at.IsZero() || now.Sub(f.at) >= plainInterval {
		f.print(now)
	}
}

// Done ends the last line. The last state stays on the screen.
func (f *Follower) Done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status == nil {
		return
	}
	if f.width != nil {
		f.status.UnderWay = nil // the copies have ended
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
