package display

import (
	"io"
	"sync"
)

// clearLine goes to the start of the line and erases it (ECMA-48, EL).
const clearLine = "\r\x1b[K"

// Drawn is a terminal's last line, which is drawn again and again. It is safe for
// concurrent use.
type Drawn struct {
	mu   sync.Mutex
	w    io.Writer
	text string // what stands there
}

// NewDrawn returns a line that is empty yet.
func NewDrawn(w io.Writer) *Drawn { return &Drawn{w: w} }

// Draw replaces the line.
func (d *Drawn) Draw(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text = text
	d.write(clearLine + text)
}

// Clear removes the line, where there is one.
func (d *Drawn) Clear() { d.end(clearLine) }

// keep leaves the line to be read.
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
func (d *Drawn) Above(w io.Writer) io.Writer { return above{d, w} }

type above struct {
	d *Drawn
	w io.Writer
}

func (a above) Write(text []byte) (int, error) {
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
