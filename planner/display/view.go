package display

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	// longBar and shortBar are the lengths of the bar on wide and narrow terminals, in columns.
	longBar  = 20
	shortBar = 10
	// followedCopies is how many copies are shown while a run is followed.
	followedCopies = 5
)

// view shows the status of a run that is followed.
type view struct {
	run.Status
	now    time.Time
	pace   *estimate.Pace
	colors bool
}

// lines returns the progress, the activity and the copies under way, in lines of at most the width.
func (v view) lines(width int) []string {
	lines := []string{v.head(width)}
	if text := cut(v.chunks(), width); text != "" {
		paint := paint("")
		switch {
		case v.State == run.StateDone:
			paint = green
		case v.Over():
			paint = red
		case v.Chunks.Running == 0:
			paint = yellow
		}
		lines = append(lines, paint.on(v.colors, text))
	}
	shown := v.UnderWay[:min(len(v.UnderWay), followedCopies)]
	for _, row := range copyRows(shown, v.now, width) {
		lines = append(lines, faint.on(v.colors, row))
	}
	if more := len(v.UnderWay) - len(shown); more > 0 {
		lines = append(lines, faint.on(v.colors, cut(fmt.Sprintf("  and %d more", more), width)))
	}
	return lines
}

// head returns the progress and the time left. It leaves out parts that do not fit.
func (v view) head(width int) string {
	bytes, left := v.bytes(), v.toGo()
	long, short, percent := v.bar(longBar), v.bar(shortBar), v.percent()
	for _, parts := range [][]string{
		{long, percent, v.images(true), bytes, left},
		{long, percent, v.images(false), bytes, left},
		{short, percent, v.images(false), bytes, left},
		{short, percent, v.images(false), left},
		{percent, v.images(false), left},
		{percent, v.images(false)},
		{percent},
	} {
		text := strings.Join(present(parts...), "  ")
		if utf8.RuneCountInString(text) <= width {
			return v.colored(text)
		}
	}
	return ""
}

// colored paints the bar and the failures.
func (v view) colored(text string) string {
	if !v.colors {
		return text
	}
	if end := strings.IndexByte(text, ']'); strings.HasPrefix(text, "[") && end > 0 {
		text = green.on(true, text[:end+1]) + text[end+1:]
	}
	if failed := fmt.Sprintf("%d failed", v.Images.Failed); v.Images.Failed > 0 {
		text = strings.Replace(text, failed, red.on(true, failed), 1)
	}
	return text
}

// total returns the number of images. Until every chunk is resolved, it is an estimate.
func (v view) total() (n int, exact bool) {
	return estimate.Images(v.Images.Total, v.Chunks.Total, v.Unresolved)
}

// share returns how much of a whole is done. It returns the whole only if the run is over.
func (v view) share(of int) int {
	if v.Over() {
		if v.State == run.StateDone || v.State == run.StateFailed {
			return of
		}
		return min(of-1, of*v.Chunks.Done/max(1, v.Chunks.Total))
	}
	total, _ := v.total()
	return min(of-1, of*v.Images.Ended()/max(1, total))
}

func (v view) bar(length int) string {
	full := v.share(length)
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", length-full) + "]"
}

func (v view) percent() string { return fmt.Sprintf("%d%%", v.share(100)) }

// images returns the numbers of images that have an outcome and of all images. If outcome is true, it
// adds the number for each outcome.
func (v view) images(outcome bool) string {
	if v.Images.Total == 0 {
		return ""
	}
	total := images(v.Images.Total)
	if _, exact := v.total(); !exact && !v.Over() {
		total = fmt.Sprintf("%d+ images", v.Images.Total)
	}
	text := fmt.Sprintf("%d/%s", v.Images.Ended(), total)
	if by := list(known(outcomes(v.Images))); outcome && by != "" {
		return text + ": " + by
	}
	if !outcome && v.Images.Failed > 0 {
		text += fmt.Sprintf(", %d failed", v.Images.Failed)
	}
	return text
}

// bytes returns how many bytes were copied, and the rate.
func (v view) bytes() string {
	moved, speed := v.Bytes, int64(0)
	for _, c := range v.UnderWay {
		moved += c.Bytes
		speed += c.Rate
	}
	switch {
	case moved == 0 && speed == 0:
		return ""
	case speed == 0:
		return Size(moved)
	}
	return Size(moved) + " at " + rate(speed)
}

// chunks returns how many chunks are done, and the activity.
func (v view) chunks() string {
	return fmt.Sprintf("%d/%s, %s", v.Chunks.Done, chunks(v.Chunks.Total), activity(v.Status, v.now))
}

// underWayCount returns how many images are being copied.
func (v view) underWayCount() string {
	if len(v.UnderWay) == 0 {
		return ""
	}
	return images(len(v.UnderWay)) + " under way"
}

// toGo returns the time left. It is the longer one of two estimates: by schedule and budgets, and by the
// speed so far. It has a mark if it is a lower bound.
func (v view) toGo() string {
	if v.Over() {
		return ""
	}
	total, exact := v.total()
	bySpeed, known := v.pace.Left(max(0, total-v.Images.Ended()))
	known = known && v.Chunks.Running > 0 && bySpeed > 0
	if e := v.EstimatedDone; e != nil && e.After(v.now) && (!known || e.Sub(v.now) > bySpeed) {
		if v.NextDue != nil && e.Equal(*v.NextDue) {
			return "" // the line of chunks shows when the next chunk is due, and it is the last one
		}
		return marked(span(e.Sub(v.now)), v.EstimatedAtLeast) + " to go"
	}
	if !known {
		return ""
	}
	if !exact || v.EstimatedAtLeast {
		return span(bySpeed) + "+ to go"
	}
	return "~" + span(bySpeed) + " to go"
}

// copyRows returns a line for each copy. Long names lose their beginning, because they differ mostly at
// their end.
func copyRows(all []run.Copy, now time.Time, width int) []string {
	var names, rest []string
	widest := 0
	for _, c := range all {
		names = append(names, printable(c.Image))
		rest = append(rest, fmt.Sprintf("  %10s  %12s  %6s", Size(c.Bytes), rate(c.Rate), span(now.Sub(c.Since))))
		widest = max(widest, utf8.RuneCountInString(names[len(names)-1]))
	}
	var rows []string
	for i := range all {
		room := width - imageIndent - utf8.RuneCountInString(rest[i])
		if room < 1 {
			rows = append(rows, cut(strings.Repeat(" ", imageIndent)+names[i], width))
			continue
		}
		rows = append(rows, fmt.Sprintf("%*s%-*s%s", imageIndent, "", min(widest, room), tail(names[i], room), rest[i]))
	}
	return rows
}

// tail returns the end of a text, of at most the width.
func tail(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return "…" + string(runes[len(runes)-max(0, width-1):])
}

// cut returns the beginning of a text, of at most the width.
func cut(text string, width int) string {
	runes := []rune(text)
	return string(runes[:max(0, min(width, len(runes)))])
}

// activity returns how many chunks are running, or what the run waits for.
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

// present returns the parts that are not empty.
func present(parts ...string) []string {
	return slices.DeleteFunc(slices.Clone(parts), func(part string) bool { return part == "" })
}
