// Package display is what a person sees of plans, runs and failures: tables,
// summaries, and a run followed while it goes on. Times are local, with their
// zone.
package display

import (
	"os"

	"golang.org/x/term"
)

// defaultWidth is the width of a terminal that does not tell its own.
const defaultWidth = 80

// IsTerminal reports whether a person looks at what is written to the file.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Width returns a function that tells how many columns the file's terminal has
// now, because its window can be resized.
func Width(f *os.File) func() int {
	return func() int {
		columns, _, err := term.GetSize(int(f.Fd()))
		if err != nil || columns <= 0 {
			return defaultWidth
		}
		return columns
	}
}
