package run

import (
	"cmp"
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

const (
	// stream is the bucket's, and prefix what its subjects begin with.
	stream = "KV_" + Bucket
	prefix = "$KV." + Bucket + "."
)

// Store reads and writes runs.
type Store struct {
	kv jetstream.KeyValue
	b  *broker.Broker
	// read returns the last message of a key as the bucket's leader has it. A replica may
	// be behind, and would not know of a run that it was ended.
	read func(ctx context.Context, key string) (*jetstream.RawStreamMsg, error)
}

// Open returns the store of a broker, and creates its bucket where there is none.
func Open(ctx context.Context, b *broker.Broker) (*Store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      Bucket,
		Description: "skopeo-worker: runs and their progress",
		TTL:         Keep,
	})
	if err != nil {
		return nil, err
	}
	read := func(ctx context.Context, key string) (*jetstream.RawStreamMsg, error) {
		return b.Last(ctx, stream, prefix+key)
	}
	return &Store{kv: kv, b: b, read: read}, nil
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

// Delete deletes a run that has published nothing.
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

// ErrOvertaken is returned if another worker has recorded progress of the same message in
// the meantime.
var ErrOvertaken = errors.New("another worker has the chunk, or is done with it")

// Report stores the progress of the message at the address if last is still the revision
// of what is recorded, 0 if nothing is, and returns the new revision. Otherwise it returns
// ErrOvertaken: a worker that was suspended must not hide that another one is done.
func (s *Store) Report(ctx context.Context, a subject.Address, p Progress, last uint64) (uint64, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return last, err
	}
	revision, err := s.kv.Update(ctx, progressKey(a), data, last)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) || errors.Is(err, jetstream.ErrKeyExists) || errors.Is(broker.Conflict(err), broker.ErrConflict) {
		err = ErrOvertaken
	}
	if err != nil {
		return last, fmt.Errorf("storing the progress of chunk %s of run %s: %w", a.Token, a.Run, err)
	}
	return revision, nil
}

// Progress returns what was last recorded of the message, with its revision, as the
// bucket's leader has it. If nothing was recorded, or the entry is not a progress, p is
// empty.
func (s *Store) Progress(ctx context.Context, a subject.Address) (p Progress, revision uint64, err error) {
	m, err := s.read(ctx, progressKey(a))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return p, 0, nil
	}
	if err != nil {
		return p, 0, fmt.Errorf("reading the progress of chunk %s of run %s: %w", a.Token, a.Run, err)
	}
	p, _ = parseProgress(m.Data)
	return p, m.Sequence, nil
}

// parseProgress reads the progress of a message. It returns false if data is not one.
func parseProgress(data []byte) (Progress, bool) {
	var p Progress
	if json.Unmarshal(data, &p) != nil || !slices.Contains([]string{Running, Snoozed, Done, Dropped}, p.State) {
		return Progress{}, false
	}
	return p, true
}

// AllProgress returns what was last recorded of each message of a run.
func (s *Store) AllProgress(ctx context.Context, name, id string) (map[subject.Address]Progress, error) {
	all := map[subject.Address]Progress{}
	_, err := s.changes(ctx, name+"."+id+".>", 0, func(key string, _ uint64, data []byte) {
		registry, token, _ := strings.Cut(strings.TrimPrefix(key, name+"."+id+"."), ".")
		if p, ok := parseProgress(data); ok {
			all[subject.Address{Name: name, Run: id, Registry: registry, Token: token}] = p
		}
	})
	return all, err
}

func progressKey(a subject.Address) string {
	return a.Name + "." + a.Run + "." + a.Registry + "." + a.Token
}

// Get returns a run by its id, or the newest of the mirror name where id is empty.
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
	m, err := s.read(ctx, name+"."+id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Entry{}, unknown
	}
	if err != nil {
		return Entry{}, fmt.Errorf("reading run %s: %w", id, err)
	}
	r, ok := parse(name+"."+id, m.Data)
	if !ok {
		return Entry{}, unknown
	}
	return Entry{Run: r, Revision: m.Sequence}, nil
}

// parse reads a run from the entry with the given key. It returns false if the entry was
// deleted, is not a run, or is one of another key.
func parse(key string, data []byte) (Run, bool) {
	var r Run
	err := json.Unmarshal(data, &r)
	return r, err == nil && subject.ValidName(r.Name) && key == r.Name+"."+r.ID
}

// List returns the runs of a mirror name, the newest first.
func (s *Store) List(ctx context.Context, name string) ([]Run, error) {
	watch, err := s.kv.Watch(ctx, name+".*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("listing the runs of %s: %w", name, err)
	}
	defer func() { _ = watch.Stop() }()
	var runs []Run
	for entry := range watch.Updates() {
		if entry == nil {
			slices.SortFunc(runs, func(a, b Run) int { return strings.Compare(b.ID, a.ID) })
			return runs, nil
		}
		if r, ok := parse(entry.Key(), entry.Value()); ok {
			runs = append(runs, r)
		}
	}
	return nil, fmt.Errorf("listing the runs of %s: %w", name, cmp.Or(context.Cause(ctx), errClosed))
}

// errClosed is why a watch ends that nobody has stopped.
var errClosed = errors.New("the connection was closed")

// Update changes a run, again and again until nobody else has changed it in between.
func (s *Store) Update(ctx context.Context, name, id string, change func(*Run)) (Run, error) {
	for {
		e, err := s.entry(ctx, name, id)
		if err != nil {
			return Run{}, err
		}
		change(&e.Run)
		data, err := json.Marshal(e.Run)
		if err != nil {
			return Run{}, err
		}
		_, err = s.kv.Update(ctx, e.key(), data, e.Revision)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue
		}
		if err != nil {
			return Run{}, fmt.Errorf("storing run %s: %w", id, err)
		}
		return e.Run, nil
	}
}

// End marks a run as cancelled or superseded. One that has been ended stays as it is.
func (s *Store) End(ctx context.Context, name, id, state string) error {
	_, err := s.Update(ctx, name, id, func(r *Run) {
		if r.Ended == "" {
			r.Ended, r.EndedAt = state, time.Now().UTC()
		}
	})
	return err
}
