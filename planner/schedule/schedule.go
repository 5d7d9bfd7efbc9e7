// Package schedule knows when a mirror is to be planned.
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

// ErrInvalid is returned for words that are not a schedule, and for unknown time zones.
var ErrInvalid = errors.New("not a schedule")

// clockCheck bounds how long Wait sleeps at a time. A timer stops while the machine is
// suspended, and does not see that its clock is set.
const clockCheck = time.Minute

// Schedule is a set of times.
type Schedule struct {
	times cron.Schedule
	zone  *time.Location
	daily bool // it names the hour
}

// Parse reads a schedule as cron has it: five fields, or @daily and the like. They mean
// times of the zone, a name of the IANA database; empty is the local one.
func Parse(words, zone string) (Schedule, error) {
	s := Schedule{zone: time.Local}
	var err error
	if zone != "" {
		if s.zone, err = time.LoadLocation(zone); err != nil {
			return s, fmt.Errorf("%w: unknown time zone %q", ErrInvalid, zone)
		}
	}
	if strings.Contains(words, "TZ=") {
		return s, fmt.Errorf("%w: set the time zone with MIRROR_TIMEZONE, without TZ=", ErrInvalid)
	}
	if s.times, err = cron.ParseStandard(words); err != nil {
		return s, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch fields := strings.Fields(words); {
	case fields[0] == "@hourly", fields[0] == "@every":
	case len(fields) == 1:
		s.daily = true
	default:
		s.daily = !strings.ContainsAny(fields[1][:1], "*?")
	}
	if s.Next(time.Now()).IsZero() {
		return s, fmt.Errorf("%w: no date matches %q", ErrInvalid, words)
	}
	return s, nil
}

// Zone is the time zone of the schedule.
func (s Schedule) Zone() *time.Location { return s.zone }

// lookBack is more than any clock is put forward at once: times that it has skipped may still be due.
const lookBack = 25 * time.Hour

// Next returns the first time of the schedule after t. If clocks are put back over it, it is
// the first of the two; if they are put forward over it, it is later by as much. An
// hourly schedule, or one of every few hours, counts the hours that pass.
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

// onWall returns the time that a clock on the wall shows at t, without a time zone.
func onWall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// instant is when a clock on the wall shows a time first or, if it never does, when it would
// if it had not been put forward.
func (s Schedule) instant(wall time.Time) time.Time {
	var before time.Duration // offset from UTC, before clocks are changed, if they are
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

// Wait returns once it is t by the clock of the machine, or ctx ends.
func Wait(ctx context.Context, t time.Time) error {
	for {
		left := t.Round(0).Sub(time.Now().Round(0)) // without the monotonic clock
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(min(left, clockCheck))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}
