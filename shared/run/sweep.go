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
	entry, err := s.kv.Get(ctx, sweepKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		_, err = s.kv.Create(ctx, sweepKey, data)
	case err == nil:
		// Callers' tickers are not in step with each other, nor their clocks.
		if now.Sub(entry.Created()) < interval*9/10 {
			return false, nil
		}
		_, err = s.kv.Update(ctx, sweepKey, data, entry.Revision())
	}
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return false, nil // another worker was faster
	}
	return err == nil, err
}

// Overdue returns the subjects of schedules that, by what is known of their runs,
// should have fired before the given time. The schedules themselves tell for sure.
func (s *Store) Overdue(ctx context.Context, before time.Time) ([]string, error) {
	var suspects []string
	runs := map[string]Run{}
	for _, root := range []string{subject.Plan, subject.Later} {
		info, err := s.b.Stream.Info(ctx, jetstream.WithSubjectFilter(root+".>"))
		if err != nil {
			return nil, fmt.Errorf("listing schedules: %w", err)
		}
		for subj := range info.State.Subjects {
			due, err := s.due(ctx, subj, runs)
			if err != nil {
				return nil, err
			}
			if due.Before(before) {
				suspects = append(suspects, subj)
			}
		}
	}
	return suspects, nil
}

// due tells when a schedule is to fire; the zero time where that is not known.
func (s *Store) due(ctx context.Context, subj string, runs map[string]Run) (time.Time, error) {
	a, err := subject.ParseAddress(subj)
	if err != nil {
		return time.Time{}, nil
	}
	if strings.HasPrefix(subj, subject.Later+".") {
		p, _, err := s.Progress(ctx, a)
		return p.Due, err
	}
	key := a.Name + "." + a.Run
	r, known := runs[key]
	if !known {
		r, err = s.Get(ctx, a.Name, a.Run)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return time.Time{}, err
		}
		runs[key] = r
	}
	return r.due(a.Number()), nil
}
