package display

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
)

// plainInterval is the least time between two lines where no terminal is.
const plainInterval = 10 * time.Second

// Follower shows a run while it goes on: on a terminal a line that is drawn again
// and again, elsewhere a line where something has changed.
type Follower struct {
	terminal bool
	width    func() int
	now      func() time.Time

	*Drawn // on a terminal

	mu      sync.Mutex
	status  *run.Status // the latest, nil before the first
	printed progress
	at      time.Time // of the last plain line
}

// progress is what of a status is worth a new plain line.
type progress struct {
	state  string
	chunks run.Chunks
	images run.Tally
	pulls  int
	bytes  int64
	moving string
}

// NewFollower returns a follower that has nothing to show yet. width tells the
// columns of the terminal; without a terminal it is not asked.
func NewFollower(w io.Writer, terminal bool, width func() int) *Follower {
	return &Follower{Drawn: NewDrawn(w), terminal: terminal, width: width, now: time.Now}
}

// Update shows how the run stands now.
func (f *Follower) Update(s run.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = &s
	now := f.now()
	if f.terminal {
		f.draw(now)
	} else if f.at.IsZero() || now.Sub(f.at) >= plainInterval {
		f.print(now)
	}
}

// Done leaves the last state to be read, and ends the line.
func (f *Follower) Done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status == nil {
		return
	}
	if f.terminal {
		f.draw(f.now())
		f.keep()
		return
	}
	f.print(f.now())
}

func (f *Follower) draw(now time.Time) {
	// The last column stays free: some terminals wrap as soon as it is written.
	f.Draw(line(*f.status, now, f.width()-1))
}

func (f *Follower) print(now time.Time) {
	s := f.status
	next := progress{s.State, s.Chunks, s.Images, s.Pulls, s.Bytes, moving(*s)}
	if !f.at.IsZero() && next == f.printed {
		return
	}
	f.printed, f.at = next, now
	_, _ = fmt.Fprintf(f.Above(f.w), "%s  %s\n", moment(now), strings.Join(present(done(*s), imagesText(*s), activity(*s, now), moving(*s), toGo(*s, now), bytesText(*s)), "; "))
}
