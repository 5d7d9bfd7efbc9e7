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
	// longBar and shortBar are the lengths of the bar, in columns: on a wide terminal, and on a
	// narrow one.
	longBar  = 20
	shortBar = 10
	// followedCopies is how many images under way are shown while a run is followed.
	followedCopies = 5
)

// view is a status of a run, as it is shown while the run is followed.
type view struct {
	run.Status
	now    time.Time
	pace   *estimate.Pace
	colors bool
}

// lines returns as much of a status as fits into the width: the progress, the activity, and the
// images under way.
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

// head returns the progress by images and bytes, and the time left.
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

// total returns the number of images, which is an estimate until every chunk is resolved.
func (v view) total() (n int, exact bool) {
	return estimate.Images(v.Images.Total, v.Chunks.Total, v.Unresolved)
}

// share returns how much of the given whole is done. It is all only if the run is over.
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

// images returns the images that have an outcome, by outcome if wanted. Their number is known
// when their repositories have been resolved.
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

// bytes returns the bytes that were copied, and the rate.
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

// chunks returns the number of chunks that are done, and the activity.
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

// toGo returns how long the run takes, by schedule and budgets and by its speed, whichever is
// longer, with a mark if it may take longer.
func (v view) toGo() string {
	if v.Over() {
		return ""
	}
	total, exact := v.total()
	bySpeed, known := v.pace.Left(max(0, total-v.Images.Ended()))
	known = known && v.Chunks.Running > 0 && bySpeed > 0
	if e := v.EstimatedDone; e != nil && e.After(v.now) && (!known || e.Sub(v.now) > bySpeed) {
		if v.NextDue != nil && e.Equal(*v.NextDue) {
			return "" // the next chunk is the last one, and is shown already
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

// copyRows returns a line for each image under way. Long names lose their beginning, because
// they differ at their end.
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

// tail returns the end of a text that fits into the width.
func tail(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return "…" + string(runes[len(runes)-max(0, width-1):])
}

// cut returns the beginning of a text that fits into the width.
func cut(text string, width int) string {
	runes := []rune(text)
	return string(runes[:max(0, min(width, len(runes)))])
}

// activity returns how many chunks are running, or the reason why the run waits.
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

// present leaves out the empty parts.
func present(parts ...string) []string {
	return slices.DeleteFunc(slices.Clone(parts), func(part string) bool { return part == "" })
}
