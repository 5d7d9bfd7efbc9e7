package display

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
)

// plainInterval is the least time between two lines without a terminal.
const plainInterval = 10 * time.Second

// Follower shows a run while it goes on: on a terminal as a line that is drawn again and
// again, elsewhere as a new line when something has changed.
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

// progress is the part of a status whose change is worth a new plain line.
type progress struct {
	state  string
	chunks run.Chunks
	images run.Tally
	pulls  int
	bytes  int64
	moving string
}

// NewFollower returns a follower. width returns the columns of the terminal; without a
// terminal, it is not called.
func NewFollower(w io.Writer, terminal bool, width func() int) *Follower {
	return &Follower{Drawn: NewDrawn(w), terminal: terminal, width: width, now: time.Now}
}

// Update shows a new status.
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

// Done keeps the last state on the screen, and ends the line.
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

// clearLine moves to the start of the line and erases it (ECMA-48, EL).
const clearLine = "\r\x1b[K"

// Drawn is the last line of a terminal, which is drawn again and again. It is safe for
// concurrent use.
type Drawn struct {
	mu   sync.Mutex
	w    io.Writer
	text string // on the screen
}

// NewDrawn returns an empty line.
func NewDrawn(w io.Writer) *Drawn { return &Drawn{w: w} }

// Draw replaces the line.
func (d *Drawn) Draw(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text = text
	d.write(clearLine + text)
}

// Clear removes the line, if there is one.
func (d *Drawn) Clear() { d.end(clearLine) }

// keep leaves the line on the screen.
func (d *Drawn) keep() { d.end("\n") }

func (d *Drawn) end(how string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.text != "" {
		d.write(how)
	}
	d.text = ""
}

// Above returns a writer for whole lines, such as a log's, that go to w without
// breaking the line that is drawn.
func (d *Drawn) Above(w io.Writer) io.Writer { return lineWriter{d, w} }

type lineWriter struct {
	d *Drawn
	w io.Writer
}

func (a lineWriter) Write(text []byte) (int, error) {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	if a.d.text == "" {
		return a.w.Write(text)
	}
	a.d.write(clearLine)
	n, err := a.w.Write(text)
	a.d.write(a.d.text)
	return n, err
}

func (d *Drawn) write(text string) { _, _ = io.WriteString(d.w, text) }

// The lengths of the bar, in columns: on a wide terminal, and on a narrow one.
const (
	longBar  = 20
	shortBar = 10
)

// line returns as much of a status as fits into the width.
func line(s run.Status, now time.Time, width int) string {
	long, short := bar(s.Chunks, longBar), bar(s.Chunks, shortBar)
	count, doing, left, moving := done(s), activity(s, now), toGo(s, now), moving(s)
	for _, parts := range [][]string{
		{long, count, imagesText(s), doing, moving, left, bytesText(s)},
		{long, count, imagesText(s), doing, moving, left},
		{short, count, briefImages(s), doing, moving, left},
		{short, count, briefImages(s), doing, left},
		{count, briefImages(s), doing, left},
		{count, doing, left},
		{count, doing},
		{count},
	} {
		if text := strings.Join(present(parts...), "  "); len(text) <= width {
			return text
		}
	}
	return count[:max(0, min(width, len(count)))]
}

func bar(c run.Chunks, length int) string {
	full := length
	if c.Total > 0 {
		full = min(length, length*c.Done/c.Total)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", length-full) + "]"
}

func done(s run.Status) string { return fmt.Sprintf("%d/%s", s.Chunks.Done, chunks(s.Chunks.Total)) }

// imagesText returns the images by outcome. Their number is known when their repositories
// have been resolved.
func imagesText(s run.Status) string {
	if s.Images.Total == 0 {
		return ""
	}
	text := fmt.Sprintf("%d/%s", s.Images.Ended(), images(s.Images.Total))
	if by := list(known(outcomes(s.Images))); by != "" {
		text += ": " + by
	}
	return text
}

func briefImages(s run.Status) string {
	if s.Images.Total == 0 {
		return ""
	}
	text := fmt.Sprintf("%d/%s", s.Images.Ended(), images(s.Images.Total))
	if s.Images.Failed > 0 {
		text += fmt.Sprintf(", %d failed", s.Images.Failed)
	}
	return text
}

// activity returns what is going on, or what the run waits for.
func activity(s run.Status, now time.Time) string {
	switch {
	case s.Over():
		return stateText(s.State)
	case s.Chunks.Running > 0:
		return fmt.Sprintf("%d running", s.Chunks.Running)
	case len(s.Away) > 0:
		return "waiting for " + strings.Join(s.Away, ", ") + " (away)"
	case s.WorkerMissing:
		return "waiting for a worker"
	case s.NextDue != nil && s.NextDue.After(now):
		return "next chunk due " + relative(*s.NextDue, now)
	}
	return "waiting for a worker"
}

// toGo returns how long the run has to wait, with a mark if it may take longer.
func toGo(s run.Status, now time.Time) string {
	if s.EstimatedDone == nil || !s.EstimatedDone.After(now) || s.NextDue != nil && s.EstimatedDone.Equal(*s.NextDue) {
		return "" // the next chunk is the last one, and is shown already
	}
	more := ""
	if s.EstimatedAtLeast {
		more = "+"
	}
	return span(s.EstimatedDone.Sub(now)) + more + " to go"
}

func bytesText(s run.Status) string {
	if s.Bytes == 0 {
		return ""
	}
	return size(s.Bytes)
}

// present leaves out the empty parts.
func present(parts ...string) []string {
	var left []string
	for _, part := range parts {
		if part != "" {
			left = append(left, part)
		}
	}
	return left
}
