package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/subject"
)

// sweepKey is when somebody last looked for overdue schedules. It has one token
// and so is no run.
const sweepKey = "swept"

// ClaimSweep reports whether the caller is the one to look for overdue schedules
// now: nobody has within the interval.
func (s *Store) ClaimSweep(ctx context.Context, now time.Time, interval time.Duration) (bool, error) {
	data, err := json.Marshal(now.UTC())
	if err != nil {
		return false, err
	}
	last, err := s.read(ctx, sweepKey)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		_, err = s.kv.Create(ctx, sweepKey, data)
	case err == nil:
		// Callers' tickers are not in step with each other, nor their clocks.
		if now.Sub(last.Time) < interval*9/10 {
			return false, nil
		}
		_, err = s.kv.Update(ctx, sweepKey, data, last.Sequence)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return false, nil // another worker was faster
	}
	return err == nil, err
}

// Overdue returns the subjects of schedules that, by what is known of their runs,
// should have fired before the given time, and subjects that are not those of schedules.
// The caller decides by the messages themselves. If one of the subjects cannot be used as a
// filter, Overdue returns one for all schedules under the same root.
func (s *Store) Overdue(ctx context.Context, before time.Time) ([]string, error) {
	var suspects []string
	runs := map[string]Run{}
	for _, root := range []string{subject.Plan, subject.Later} {
		info, err := s.b.Stream.Info(ctx, jetstream.WithSubjectFilter(root+".>"))
		if err != nil {
			return nil, fmt.Errorf("listing schedules: %w", err)
		}
		var below []string
		for subj := range info.State.Subjects {
			a, err := subject.ParseAddress(subj)
			if err != nil {
				// A wildcard, or not UTF-8 and so changed in the broker's answer.
				if strings.ContainsAny(subj, "*>\ufffd") {
					below = []string{root + ".>"}
					break
				}
				below = append(below, subj)
				continue
			}
			due, err := s.due(ctx, root, a, runs)
			if err != nil {
				return nil, err
			}
			if due.Before(before) {
				below = append(below, subj)
			}
		}
		suspects = append(suspects, below...)
	}
	return suspects, nil
}

// due tells when a schedule is to fire; the zero time where that is not known.
func (s *Store) due(ctx context.Context, root string, a subject.Address, runs map[string]Run) (time.Time, error) {
	if root == subject.Later {
		p, _, err := s.Progress(ctx, a)
		return p.Due, err
	}
	key := a.Name + "." + a.Run
	r, known := runs[key]
	if !known {
		var err error
		r, err = s.Get(ctx, a.Name, a.Run)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return time.Time{}, err
		}
		runs[key] = r
	}
	return r.due(a.Number()), nil
}
