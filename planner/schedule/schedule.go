// Package schedule computes when a mirror is planned.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // container images have no zones

	cron "github.com/netresearch/go-cron"
)

// errInvalid is returned for an invalid schedule or an unknown time zone.
var errInvalid = errors.New("not a schedule")

// clockCheck bounds how long Wait sleeps before it looks at the clock again. A timer stops while the
// machine is suspended, and ignores changes of the clock.
const clockCheck = time.Minute

// Schedule is a set of times.
type Schedule struct {
	times cron.Schedule
	zone  *time.Location
	daily bool // the schedule names hours
}

// Parse parses a schedule in the format of cron: five fields, or a word such as @daily. The zone is a
// name of the IANA database; empty means the local zone.
func Parse(words, zone string) (Schedule, error) {
	s := Schedule{zone: time.Local}
	var err error
	if zone != "" {
		if s.zone, err = time.LoadLocation(zone); err != nil {
			return s, fmt.Errorf("%w: unknown time zone %q", errInvalid, zone)
		}
	}
	if strings.Contains(words, "TZ=") {
		return s, fmt.Errorf("%w: set the time zone with MIRROR_TIMEZONE, without TZ=", errInvalid)
	}
	if s.times, err = cron.ParseStandard(words); err != nil {
		return s, fmt.Errorf("%w: %w", errInvalid, err)
	}
	switch fields := strings.Fields(words); {
	case fields[0] == "@hourly", fields[0] == "@every":
	case len(fields) == 1:
		s.daily = true
	default:
		s.daily = !strings.ContainsAny(fields[1][:1], "*?")
	}
	if s.Next(time.Now()).IsZero() {
		return s, fmt.Errorf("%w: no date matches %q", errInvalid, words)
	}
	return s, nil
}

// lookBack is longer than any change of clocks. Times that a change has skipped may still be due.
const lookBack = 25 * time.Hour

// Next returns the first time of the schedule after t, or the zero time if there is none. If the
// clock is set back over a time, the first of its two occurrences counts. If the clock is set
// forward over a time, the time is later by the same amount. A schedule of every hour or every few
// hours counts real hours.
func (s Schedule) Next(t time.Time) time.Time {
	if !s.daily {
		return s.times.Next(t.In(s.zone))
	}
	for wall := s.times.Next(onWall(t.In(s.zone)).Add(-lookBack)); !wall.IsZero(); wall = s.times.Next(wall) {
		if at := s.instant(wall); at.After(t) {
			return at
		}
	}
	return time.Time{}
}

// onWall returns the time that a wall clock shows at t, as a time in UTC.
func onWall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// instant returns when a wall clock first shows a time. If a change skips that time, instant ignores
// the change.
func (s Schedule) instant(wall time.Time) time.Time {
	var before time.Duration // offset from UTC before a change of clocks
	for _, look := range []time.Duration{-lookBack, lookBack} {
		_, seconds := wall.Add(look).In(s.zone).Zone()
		offset := time.Duration(seconds) * time.Second
		if at := wall.Add(-offset).In(s.zone); onWall(at).Equal(wall) {
			return at
		}
		if look < 0 {
			before = offset
		}
	}
	return wall.Add(-before).In(s.zone)
}

// Wait returns when the clock of the machine shows t, or when ctx ends.
func Wait(ctx context.Context, t time.Time) error {
	for {
		left := t.Round(0).Sub(time.Now().Round(0)) // without the monotonic clock
		if left <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(left, clockCheck)):
		}
	}
}
