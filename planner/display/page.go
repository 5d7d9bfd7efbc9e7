// Package display shows plans, runs and failures as text: in tables and summaries, and the progress of a
// run until it ends. Times are local, with their zone.
package display

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/osism/skopeo-worker/shared/run"
)

// textWidth is the width to which long texts are wrapped.
const textWidth = defaultWidth

// page collects output, which is then written at once.
type page struct {
	strings.Builder
	screen Screen
	paints map[int]paint // colors of lines, by line number from 0
}

// Screen describes the output. The zero value is not a terminal: output is not shortened or colored.
type Screen struct {
	Width  int // columns; 0: unlimited
	Colors bool
}

// ScreenOf describes a writer.
func ScreenOf(w io.Writer, color Color) Screen {
	if width := Width(w); width != nil {
		return Screen{Width: width(), Colors: color.On(true)}
	}
	return Screen{Colors: color.On(false)}
}

func (p *page) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p, format+"\n", args...)
}

// painted writes a line in a color, if the page has colors. The color "" has no effect.
func (p *page) painted(c paint, format string, args ...any) {
	if p.screen.Colors {
		if p.paints == nil {
			p.paints = map[int]paint{}
		}
		p.paints[strings.Count(p.String(), "\n")] = c
	}
	p.line(format, args...)
}

// to writes the page. It ignores errors, because it could show them only on the same screen.
func (p *page) to(w io.Writer) {
	lines := strings.Split(Printable(p.String()), "\n")
	for i, c := range p.paints {
		lines[i] = c.on(true, lines[i])
	}
	_, _ = io.WriteString(w, strings.Join(lines, "\n"))
}

// Printable replaces unprintable characters of lines with spaces. Names and reasons may come from
// outside, and must not control the terminal.
func Printable(lines string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return ' '
	}, lines)
}

// notes writes an empty line and the texts, each with the prefix. It writes nothing if there are none.
func (p *page) notes(prefix string, texts []string) {
	if len(texts) > 0 {
		p.line("")
	}
	for _, text := range texts {
		p.wrapped(0, prefix+text)
	}
}

// wrapped writes a text at an indent. It does not split words, because users copy digests and addresses.
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
func printable(s string) string { return strings.ReplaceAll(Printable(s), "\n", " ") }

// columnGap is the space between two columns of a table.
const columnGap = 2

// column is a column of a table.
type column struct {
	title  string
	number bool // aligned right
	name   bool // may lose its beginning if the table is wider than the screen
}

// leastName is how many characters of a name any screen shows.
const leastName = 20

func text(title string) column { return column{title: title} }

// names returns a column of long names, which differ mostly at their end.
func names(title string) column { return column{title: title, name: true} }

func number(title string) column { return column{title: title, number: true} }

// table aligns cells below the titles of the columns, at an indent. A row may have fewer cells than there
// are columns. colors are the optional colors of the rows.
func (p *page) table(indent int, columns []column, rows [][]string, colors ...paint) {
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	if strings.Join(titles, "") != "" {
		rows = append([][]string{titles}, rows...)
		colors = append([]paint{""}, colors...)
	}
	widths := make([]int, len(columns))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	p.narrow(indent, columns, widths)
	gap := strings.Repeat(" ", columnGap)
	for number, row := range rows {
		line := strings.Repeat(" ", indent)
		for i, cell := range row {
			if i > 0 {
				line += gap
			}
			cell = tail(cell, widths[i])
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if columns[i].number {
				line += padding + cell
			} else {
				line += cell + padding
			}
		}
		c := paint("")
		if number < len(colors) {
			c = colors[number]
		}
		p.painted(c, "%s", strings.TrimRight(line, " "))
	}
}

// narrow makes columns of names narrower, the widest first, until the table fits on the screen.
func (p *page) narrow(indent int, columns []column, widths []int) {
	if p.screen.Width == 0 {
		return
	}
	for tableWidth(indent, widths) > p.screen.Width {
		widest := -1
		for i, c := range columns {
			if c.name && widths[i] > leastName && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// tableWidth returns how wide a table is.
func tableWidth(indent int, widths []int) int {
	total := indent + columnGap*(len(widths)-1)
	for _, w := range widths {
		total += w
	}
	return total
}

// defaultWidth is used for terminals whose width is unknown.
const defaultWidth = 80

// Width returns a function that returns the current number of columns of the terminal, whose window may
// be resized. If w is not a terminal, Width returns nil.
func Width(w io.Writer) func() int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func() int {
		columns, _, err := term.GetSize(int(f.Fd()))
		if err != nil || columns <= 0 {
			return defaultWidth
		}
		return columns
	}
}

// Size formats a number of bytes with an IEC prefix.
func Size(bytes int64) string {
	const step = 1024
	if bytes < step {
		return fmt.Sprintf("%d B", bytes)
	}
	value, prefixes := float64(bytes)/step, "KMGTPE"
	// 1023.95 would be shown as 1024.0.
	for value >= step-0.05 && len(prefixes) > 1 {
		value, prefixes = value/step, prefixes[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, prefixes[0])
}

// Count formats a number with its noun.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func images(n int) string { return Count(n, "image", "images") }

func chunks(n int) string { return Count(n, "chunk", "chunks") }

// amount is a number with its noun.
type amount struct {
	n    int
	what string
}

// outcomes returns the images of a run by outcome. It leaves out rare outcomes without images.
func outcomes(t run.Tally) []amount {
	var all []amount
	for _, o := range run.Outcomes {
		if n := *t.Of(o); n > 0 || o != run.Dropped && o != run.Kept && o != run.Waiting {
			all = append(all, amount{n, string(o)})
		}
	}
	return all
}

// list formats amounts.
func list(amounts []amount) string {
	texts := make([]string, len(amounts))
	for i, a := range amounts {
		texts[i] = fmt.Sprintf("%d %s", a.n, a.what)
	}
	return strings.Join(texts, ", ")
}

// sum formats a total and its parts.
func sum(total int, of []amount) string {
	if parts := list(known(of)); parts != "" {
		return fmt.Sprintf("%d: %s", total, parts)
	}
	return strconv.Itoa(total)
}

// known returns the amounts that are not zero.
func known(amounts []amount) []amount {
	return slices.DeleteFunc(slices.Clone(amounts), func(a amount) bool { return a.n == 0 })
}

const day = 24 * time.Hour

// zone is the time zone of the reader.
var zone = time.Local

func moment(t time.Time) string { return t.In(zone).Format("2006-01-02 15:04:05 MST") }

// relative formats a time relative to now.
func relative(t, now time.Time) string {
	switch d := t.Sub(now); {
	case d > 0:
		return "in " + span(d)
	case d > -time.Second:
		return "now"
	default:
		return span(-d) + " ago"
	}
}

// due formats when something starts, relative to now. If it is overdue, it starts now.
func due(t, now time.Time) string {
	if t.After(now) {
		return relative(t, now)
	}
	return "now"
}

// momentAndRelative formats a time, followed by the time relative to now.
func momentAndRelative(t, now time.Time) string {
	return fmt.Sprintf("%s (%s)", moment(t), relative(t, now))
}

// span formats a duration in its two largest units. It rounds up, so that a countdown reaches zero only
// at its end.
func span(d time.Duration) string {
	if d <= 0 {
		return "0s"
	}
	d = (d + time.Second - 1).Truncate(time.Second)
	switch {
	case d >= day:
		return units(d, day, "d", time.Hour, "h")
	case d >= time.Hour:
		return units(d, time.Hour, "h", time.Minute, "m")
	default:
		return units(d, time.Minute, "m", time.Second, "s")
	}
}

func units(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	l, s := d/large, d%large/small
	switch {
	case l == 0:
		return fmt.Sprintf("%d%s", s, smallName)
	case s == 0:
		return fmt.Sprintf("%d%s", l, largeName)
	}
	return fmt.Sprintf("%d%s%d%s", l, largeName, s, smallName)
}
