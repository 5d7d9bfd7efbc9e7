package holding

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/subject"
)

// bucket holds the records. They do not expire, because a tag may be pruned long after it was last
// mirrored.
const bucket = "mirror_holdings"

var (
	errMalformed     = errors.New("not a record of mirrored tags")
	errNoDestination = errors.New("the destination or the mirror name is missing")
)

// Store reads and writes records. It is safe for concurrent use.
type Store struct {
	b   *broker.Broker
	kv  jetstream.KeyValue
	log *slog.Logger
}

// Open returns the store of a broker, and creates its bucket if it is missing.
func Open(ctx context.Context, b *broker.Broker, log *slog.Logger) (*Store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "skopeo-worker: tags that were mirrored to each destination repository",
	})
	if err != nil {
		return nil, err
	}
	return &Store{b: b, kv: kv, log: log}, nil
}

func key(mirror string, destination reference.Repository) string {
	return mirror + "." + subject.Hash(destination.String())
}

// addOne records an observation of a destination repository under a mirror name. It writes nothing if the
// record stays the same.
func (s *Store) addOne(ctx context.Context, mirror string, destination reference.Repository, seen Seen) error {
	err := s.change(ctx, mirror, destination, func(r *Repository) bool { return r.add(seen) })
	if err != nil {
		return fmt.Errorf("recording the tags that were mirrored to %s: %w", destination, err)
	}
	return nil
}

// maxRead is how many records Add holds in memory.
const maxRead = 64

// Add records observations of destination repositories under a mirror name. It reads their records
// with few requests. After an error it goes on with the others, and returns the first error.
func (s *Store) Add(ctx context.Context, mirror string, all map[reference.Repository]Seen) error {
	var failed error
	for part := range slices.Chunk(slices.SortedFunc(maps.Keys(all), func(a, b reference.Repository) int { return strings.Compare(a.String(), b.String()) }), maxRead) {
		keys := make([]string, len(part))
		for i, destination := range part {
			keys[i] = key(mirror, destination)
		}
		values, err := s.b.Values(ctx, bucket, keys)
		if err != nil {
			return fmt.Errorf("reading the records of mirrored tags: %w", err)
		}
		for i, destination := range part {
			if r := record(mirror, destination, values[keys[i]]); !r.add(all[destination]) {
				continue
			}
			if err := s.addOne(ctx, mirror, destination, all[destination]); err != nil {
				failed = cmp.Or(failed, err)
			}
		}
	}
	return failed
}

// record returns the record in an entry. It returns an empty record if the entry is nil or does not
// have the record of the destination.
func record(mirror string, destination reference.Repository, e jetstream.KeyValueEntry) Repository {
	r := Repository{Destination: destination, Mirror: mirror}
	if e == nil {
		return r
	}
	if known, err := parse(e.Value()); err == nil && known.Destination == destination && known.Mirror == mirror {
		r = known
	}
	r.written = e.Created().UTC()
	return r
}

// Forget removes tags that are no longer at the destination from the records of all mirror
// names, unless a record has another digest for them.
func (s *Store) Forget(ctx context.Context, destination reference.Repository, tags map[reference.Tag]reference.Digest) error {
	all, err := s.List(ctx)
	for _, r := range all {
		if err != nil {
			break
		}
		if r.Destination != destination {
			continue
		}
		err = s.change(ctx, r.Mirror, destination, func(r *Repository) bool {
			before := len(r.Tags)
			r.Tags = slices.DeleteFunc(r.Tags, func(t Tag) bool { return tags[t.Name] == t.Digest })
			return len(r.Tags) < before
		})
	}
	if err != nil {
		return fmt.Errorf("forgetting tags of %s: %w", destination, err)
	}
	return nil
}

// Lacks returns why no entry of a list mirrors to a tag of a destination, or "" if one does.
type Lacks func(destination reference.Repository, tag reference.Tag) Reason

// MarkList notes which tags of a mirror name are missing in its list, and which are back in it. at is
// when the list was read.
func (s *Store) MarkList(ctx context.Context, mirror string, list Lacks, at time.Time) error {
	all, err := s.List(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Mirror != mirror || !r.markList(list, at) {
			continue
		}
		err := s.change(ctx, mirror, r.Destination, func(r *Repository) bool { return r.markList(list, at) })
		if err != nil {
			return fmt.Errorf("noting which tags of %s the list has: %w", r.Destination, err)
		}
	}
	return nil
}

func (r *Repository) markList(list Lacks, at time.Time) (changed bool) {
	for i := range r.Tags {
		t := &r.Tags[i]
		why := list(r.Destination, t.Name)
		if why == "" && !t.Why.IsOfList() || t.Last.After(at) {
			continue // the source lacks it, or it was mirrored for a newer list
		}
		if t.drop(why, r.since(at)) {
			changed = true
		}
	}
	return changed
}

// change reads, changes and writes a record. It starts again if another process has written it.
func (s *Store) change(ctx context.Context, mirror string, destination reference.Repository, change func(*Repository) bool) error {
	_, err := broker.Update(ctx, s.kv, key(mirror, destination), func(last jetstream.KeyValueEntry) ([]byte, error) {
		r := record(mirror, destination, last)
		if !change(&r) {
			return nil, nil
		}
		data, left, err := r.encode()
		if left > 0 {
			s.log.Warn("a repository has more tags than can be recorded; the newest are never pruned", "destination", destination, "tags", left)
		}
		return data, err
	})
	return err
}

// List returns the records of all mirror names, sorted by destination. It returns an error if an entry
// of the bucket is not a record, because then it is not known which tags were mirrored.
func (s *Store) List(ctx context.Context) ([]Repository, error) {
	var all []Repository
	var bad error
	_, err := s.b.Entries(ctx, bucket, "*.*", 0, func(e jetstream.KeyValueEntry) {
		if e.Operation() != jetstream.KeyValuePut {
			return
		}
		r, err := parse(e.Value())
		if err == nil && e.Key() != key(r.Mirror, r.Destination) {
			err = fmt.Errorf("%w: it belongs under another key", errMalformed)
		}
		if err != nil {
			bad = fmt.Errorf("key %q of bucket %s: %w", e.Key(), bucket, err)
			return
		}
		all = append(all, r)
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("reading the records of mirrored tags: %w", err)
	}
	slices.SortFunc(all, func(a, b Repository) int {
		if c := strings.Compare(a.Destination.String(), b.Destination.String()); c != 0 {
			return c
		}
		return strings.Compare(a.Mirror, b.Mirror)
	})
	return all, nil
}

// Some returns the records of up to n destination repositories, each with one tag that was mirrored from
// or to the registry. It leaves out these repositories of either side.
func (s *Store) Some(ctx context.Context, registry string, without map[reference.Repository]bool, n int) ([]Repository, error) {
	var some []Repository
	err := s.b.Find(ctx, bucket, "*.*", func(e jetstream.KeyValueEntry) (enough bool) {
		r, err := parse(e.Value())
		if err != nil || without[r.Destination] {
			return false // what is not a record is of no use here
		}
		i := slices.IndexFunc(r.Tags, func(t Tag) bool {
			return !without[t.Source] && (registry == t.Source.Registry() || registry == r.Destination.Registry())
		})
		if i >= 0 {
			r.Tags = r.Tags[i : i+1]
			some = append(some, r)
		}
		return len(some) == n
	})
	if err != nil {
		return nil, fmt.Errorf("reading records of tags that were mirrored: %w", err)
	}
	return some, nil
}
