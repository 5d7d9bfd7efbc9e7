package display

import (
	"fmt"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
)

// The lengths of the bar, in columns: on a wide terminal, and on a narrow one.
const (
	longBar  = 20
	shortBar = 10
)

// line tells as much as fits into the width.
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

// imagesText tells the images by outcome; how many there are is known once their
// repositories have been resolved.
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

// activity tells what is going on, or what is waited for.
func activity(s run.Status, now time.Time) string {
	switch {
	case s.Over():
		return stateText(s.State)
	case s.Chunks.Running > 0:
		return fmt.Sprintf("%d running", s.Chunks.Running)
	case len(s.Away) > 0:
		return "waiting for " + strings.Join(s.Away, ", ") + " (away)"
	case s.NextDue != nil && s.NextDue.After(now):
		return "next chunk due " + relative(*s.NextDue, now)
	}
	return "waiting for a worker"
}

// toGo is how long the run has to wait yet, with a mark where it may be longer.
func toGo(s run.Status, now time.Time) string {
	if s.EstimatedDone == nil || !s.EstimatedDone.After(now) || s.NextDue != nil && s.EstimatedDone.Equal(*s.NextDue) {
		return "" // a next chunk that is the last one is told of already
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
