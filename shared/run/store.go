package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// stream is the stream of the bucket.
const stream = "KV_" + Bucket

// Store reads and writes runs.
type Store struct {
	kv jetstream.KeyValue
	b  *broker.Broker
}

// Open returns the store of a broker, and creates its bucket if it is missing.
func Open(ctx context.Context, b *broker.Broker) (*Store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      Bucket,
		Description: "skopeo-worker: runs and their progress",
		TTL:         Keep,
	})
	if err != nil {
		return nil, err
	}
	return &Store{kv: kv, b: b}, nil
}

// Put stores the run.
func (s *Store) Put(ctx context.Context, r Run) error {
	if err := s.put(ctx, r.Name+"."+r.ID, r); err != nil {
		return fmt.Errorf("storing run %s: %w", r.ID, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = s.kv.Put(ctx, key, data)
	return err
}

// Delete deletes a run that has no messages.
func (s *Store) Delete(ctx context.Context, name, id string) error {
	if err := s.kv.Delete(ctx, name+"."+id); err != nil {
		return fmt.Errorf("deleting run %s: %w", id, err)
	}
	return nil
}

// Record stores the progress of the message at the address.
func (s *Store) Record(ctx context.Context, a subject.Address, p Progress) error {
	if err := s.put(ctx, progressKey(a), p); err != nil {
		return fmt.Errorf("storing the progress of chunk %s of run %s: %w", a.Token, a.Run, err)
	}
	return nil
}

// ErrOvertaken is returned if another worker has recorded progress of the same message meanwhile.
var ErrOvertaken = errors.New("another worker has the chunk, or is done with it")

// Report stores the progress of the message at the address, and returns the new revision. last is
// the revision of the recorded progress, 0 if there is none. If another worker has recorded
// progress since, Report stores nothing and returns ErrOvertaken, so that a worker that was
// suspended does not hide that the other is done.
func (s *Store) Report(ctx context.Context, a subject.Address, p Progress, last uint64) (uint64, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return last, err
	}
	revision, err := s.kv.Update(ctx, progressKey(a), data, last)
	if errors.Is(err, broker.ErrConflict) {
		err = ErrOvertaken
	}
	if err != nil {
		return last, fmt.Errorf("storing the progress of chunk %s of run %s: %w", a.Token, a.Run, err)
	}
	return revision, nil
}

// Progress returns the last recorded progress of the message, with its revision, from the leader
// of the bucket. If nothing was recorded, or the entry is not a progress, p is empty.
func (s *Store) Progress(ctx context.Context, a subject.Address) (p Progress, revision uint64, err error) {
	e, err := s.kv.Get(ctx, progressKey(a))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return p, 0, nil
	}
	if err != nil {
		return p, 0, fmt.Errorf("reading the progress of chunk %s of run %s: %w", a.Token, a.Run, err)
	}
	p, _ = parseProgress(e.Value())
	return p, e.Revision(), nil
}

// parseProgress reads the progress of a message. It returns false if data is not one.
func parseProgress(data []byte) (Progress, bool) {
	var p Progress
	if json.Unmarshal(data, &p) != nil || !slices.Contains([]string{Running, Snoozed, Done, Dropped}, p.State) {
		return Progress{}, false
	}
	return p, true
}

// AllProgress returns the last recorded progress of each message of a run.
func (s *Store) AllProgress(ctx context.Context, name, id string) (map[subject.Address]Progress, error) {
	all := map[subject.Address]Progress{}
	_, err := s.b.Entries(ctx, Bucket, name+"."+id+".>", 0, func(e jetstream.KeyValueEntry) {
		registry, token, _ := strings.Cut(strings.TrimPrefix(e.Key(), name+"."+id+"."), ".")
		if p, ok := parseProgress(e.Value()); ok {
			all[subject.Address{Name: name, Run: id, Registry: registry, Token: token}] = p
		}
	})
	return all, err
}

func progressKey(a subject.Address) string {
	return a.Name + "." + a.Run + "." + a.Registry + "." + a.Token
}

// takenBack reports whether the run is a plan that could not be published. Lists of runs leave it
// out.
func (r Run) takenBack() bool { return r.Ended == StateCancelled && !r.Published && !r.Interrupted }

// Get returns a run by its ID or, if id is empty, the newest run of the mirror name.
func (s *Store) Get(ctx context.Context, name, id string) (Run, error) {
	if id != "" {
		e, err := s.entry(ctx, name, id)
		return e.Run, err
	}
	runs, err := s.List(ctx, name)
	if err != nil {
		return Run{}, err
	}
	if len(runs) == 0 {
		return Run{}, fmt.Errorf("%w: nothing has run under the name %s in the last %d days", ErrNotFound, name, int(Keep.Hours())/24)
	}
	return runs[0], nil
}

// entry reads a run.
func (s *Store) entry(ctx context.Context, name, id string) (Entry, error) {
	unknown := fmt.Errorf("%w: %s under the name %s", ErrNotFound, id, name)
	if !subject.ValidToken(id) {
		return Entry{}, unknown
	}
	e, err := s.kv.Get(ctx, name+"."+id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry{}, unknown
	}
	if err != nil {
		return Entry{}, fmt.Errorf("reading run %s: %w", id, err)
	}
	r, ok := parse(e)
	if !ok {
		return Entry{}, unknown
	}
	return Entry{Run: r, Revision: e.Revision(), Stored: e.Created()}, nil
}

// parse reads a run from an entry. It returns false if the entry was deleted, is not a run, or
// belongs to another key.
func parse(e jetstream.KeyValueEntry) (Run, bool) {
	var r Run
	err := json.Unmarshal(e.Value(), &r)
	return r, err == nil && subject.ValidName(r.Name) && e.Key() == r.Name+"."+r.ID
}

// List returns the runs of a mirror name, the newest first.
func (s *Store) List(ctx context.Context, name string) ([]Run, error) {
	entries, err := s.Entries(ctx, name)
	if err != nil {
		return nil, err
	}
	var runs []Run
	for _, e := range entries {
		runs = append(runs, e.Run)
	}
	return runs, nil
}

// Entries is List with the entries of the runs.
func (s *Store) Entries(ctx context.Context, name string) ([]Entry, error) {
	var runs []Entry
	_, err := s.b.Entries(ctx, Bucket, name+".*", 0, func(e jetstream.KeyValueEntry) {
		if r, ok := parse(e); ok && !r.takenBack() {
			runs = append(runs, Entry{Run: r, Revision: e.Revision(), Stored: e.Created()})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the runs of %s: %w", name, err)
	}
	slices.SortFunc(runs, func(a, b Entry) int { return strings.Compare(b.ID, a.ID) })
	return runs, nil
}

// Update changes a run. If another process has changed the run meanwhile, it calls change again.
func (s *Store) Update(ctx context.Context, name, id string, change func(*Run)) (Run, error) {
	unknown := fmt.Errorf("%w: %s under the name %s", ErrNotFound, id, name)
	if !subject.ValidToken(id) {
		return Run{}, unknown
	}
	var r Run
	_, err := broker.Update(ctx, s.kv, name+"."+id, func(e jetstream.KeyValueEntry) ([]byte, error) {
		ok := e != nil
		if ok {
			r, ok = parse(e)
		}
		if !ok {
			return nil, unknown
		}
		change(&r)
		return json.Marshal(r)
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return Run{}, err
	case err != nil:
		return Run{}, fmt.Errorf("storing run %s: %w", id, err)
	}
	return r, nil
}

// End marks a run as cancelled or superseded. If it has ended already, it stays as it is.
func (s *Store) End(ctx context.Context, name, id, state string) error {
	_, err := s.Update(ctx, name, id, func(r *Run) {
		if r.Ended == "" {
			r.Ended, r.EndedAt = state, time.Now().UTC()
		}
	})
	return err
}

// sweepKey is the key of the time of the last sweep for overdue schedules. The keys of runs have
// more tokens.
const sweepKey = "swept"

// ClaimSweep reports whether the caller is to sweep for overdue schedules now. Of all callers
// within an interval, it returns true to one.
func (s *Store) ClaimSweep(ctx context.Context, now time.Time, interval time.Duration) (bool, error) {
	revision, err := broker.Update(ctx, s.kv, sweepKey, func(last jetstream.KeyValueEntry) ([]byte, error) {
		// The tickers and clocks of the callers differ a little.
		if last != nil && now.Sub(last.Created()) < interval*9/10 {
			return nil, nil
		}
		return json.Marshal(now.UTC())
	})
	return revision > 0, err
}

// Overdue returns the subjects of schedules that should have been fired before the given time, by
// the records of their runs, and foreign subjects. The caller must look at the messages themselves.
// If a subject cannot be used as a filter, Overdue returns a filter for its whole root instead.
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
				// It has a wildcard, or is not UTF-8 and so was changed in the broker's answer.
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

// due returns when a schedule is due, or the zero time if that is not known.
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
