package display

import (
	"fmt"
	"io"
	"strings"
	"unicode"
)

// textWidth is where long texts are wrapped, in columns: that of a narrow terminal.
const textWidth = defaultWidth

// page collects what is shown, so that it is written in one piece.
type page struct{ strings.Builder }

func (p *page) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p, format+"\n", args...)
}

// to writes the page. Nobody could be told of an error but on the same screen.
func (p *page) to(w io.Writer) { _, _ = io.WriteString(w, Printable(p.String())) }

// Printable replaces what is not printable in lines by spaces: names, reasons and messages
// at the broker can come from anyone, and must not control the terminal.
func Printable(lines string) string {
	all := strings.Split(lines, "\n")
	for i, line := range all {
		all[i] = printable(line)
	}
	return strings.Join(all, "\n")
}

// wrapped writes a text at an indent. Words are never cut: they may be digests or
// addresses that someone wants to copy.
func (p *page) wrapped(indent int, text string) {
	margin := strings.Repeat(" ", indent)
	line := ""
	for _, word := range strings.Fields(printable(text)) {
		switch {
		case line == "":
			line = word
		case indent+len(line)+1+len(word) > textWidth:
			p.line("%s%s", margin, line)
			line = word
		default:
			line += " " + word
		}
	}
	p.line("%s%s", margin, line)
}

// printable is Printable for a single line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
