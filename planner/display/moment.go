package display

import (
	"fmt"
	"time"
)

const day = 24 * time.Hour

// zone is where the reader is.
var zone = time.Local

// moment is a time as people read it.
func moment(t time.Time) string { return t.In(zone).Format("2006-01-02 15:04:05 MST") }

// relative is a time seen from now.
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

// due is when something may start: what is overdue is due now.
func due(t, now time.Time) string {
	if t.After(now) {
		return relative(t, now)
	}
	return "now"
}

// momentAndRelative is a time in both ways.
func momentAndRelative(t, now time.Time) string {
	return fmt.Sprintf("%s (%s)", moment(t), relative(t, now))
}

// span is a duration in its two largest units. It rounds up, so that a
// countdown does not stand at zero before its end.
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
