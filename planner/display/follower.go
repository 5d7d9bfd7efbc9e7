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

// clearLine goes to the start of the line and erases it (ECMA-48, EL).
const clearLine = "\r\x1b[K"

// Follower shows a run while it goes on: on a terminal a line that is drawn again
// and again, elsewhere a line where something has changed.
type Follower struct {
	terminal bool
	width    func() int
	now      func() time.Time

	mu      sync.Mutex
	w       io.Writer
	status  *run.Status // the latest, nil before the first
	drawn   string      // what stands on the terminal's line
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
}

// NewFollower returns a follower that has nothing to show yet. width tells the
// columns of the terminal; without a terminal it is not asked.
func NewFollower(w io.Writer, terminal bool, width func() int) *Follower {
	return &Follower{w: w, terminal: terminal, width: width, now: time.Now}
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
		f.drawn = ""
		f.write("\n")
		return
	}
	f.print(f.now())
}

// Above returns a writer for whole lines, such as a log's, that go to w without
// breaking the line that is drawn.
func (f *Follower) Above(w io.Writer) io.Writer { return above{f, w} }

type above struct {
	f *Follower
	w io.Writer
}

func (a above) Write(text []byte) (int, error) {
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	if a.f.drawn == "" {
		return a.w.Write(text)
	}
	a.f.write(clearLine)
	n, err := a.w.Write(text)
	a.f.write(a.f.drawn)
	return n, err
}

func (f *Follower) draw(now time.Time) {
	// The last column stays free: some terminals wrap as soon as it is written.
	f.drawn = line(*f.status, now, f.width()-1)
	f.write(clearLine + f.drawn)
}

func (f *Follower) print(now time.Time) {
	s := f.status
	next := progress{s.State, s.Chunks, s.Images, s.Pulls, s.Bytes}
	if !f.at.IsZero() && next == f.printed {
		return
	}
	f.printed, f.at = next, now
	f.write(fmt.Sprintf("%s  %s\n", moment(now), strings.Join(present(done(*s), imagesText(*s), activity(*s, now), toGo(*s, now), bytesText(*s)), "; ")))
}

func (f *Follower) write(text string) { _, _ = io.WriteString(f.w, text) }
