// Package schedule knows when a mirror is to be planned.
package schedule

import (
	"context"
	"errors"
	"fmt"
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
	if s.times, err = cron.ParseStandard(words); err != nil {
		return s, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if s.Next(time.Now()).IsZero() {
		return s, fmt.Errorf("%w: no date matches %q", ErrInvalid, words)
	}
	return s, nil
}

// Zone is the time zone of the schedule.
func (s Schedule) Zone() *time.Location { return s.zone }

// Next returns the first time of the schedule after t.
func (s Schedule) Next(t time.Time) time.Time { return s.times.Next(t.In(s.zone)) }

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
