package display

import (
	"io"
	"strings"
	"sync"
)

const (
	// clearLine moves to the start of the line and erases it (ECMA-48, EL).
	clearLine = "\r\x1b[K"
	// clearAbove moves to the line above and erases it (ECMA-48, CUU).
	clearAbove = "\x1b[1A" + clearLine
)

// Drawn redraws the last lines of a terminal. The lines must be narrower than the terminal. It is safe
// for concurrent use.
type Drawn struct {
	mu   sync.Mutex
	w    io.Writer
	text string // on the screen
}

// NewDrawn returns a Drawn without lines.
func NewDrawn(w io.Writer) *Drawn { return &Drawn{w: w} }

// Draw replaces the lines.
func (d *Drawn) Draw(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.erased()
	d.text = text
	d.write(before + text)
}

// erased returns the control sequences that erase the lines.
func (d *Drawn) erased() string {
	return clearLine + strings.Repeat(clearAbove, strings.Count(d.text, "\n"))
}

// Clear removes the lines, if there are any.
func (d *Drawn) Clear() { d.end(d.erased) }

// keep leaves the lines on the screen.
func (d *Drawn) keep() { d.end(func() string { return "\n" }) }

func (d *Drawn) end(how func() string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.text != "" {
		d.write(how())
	}
	d.text = ""
}

// Above returns a writer that writes whole lines, such as log records, to w, above the drawn lines.
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
	a.d.write(a.d.erased())
	n, err := a.w.Write(text)
	a.d.write(a.d.text)
	return n, err
}

func (d *Drawn) write(text string) { _, _ = io.WriteString(d.w, text) }
