package holding

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
)

// bucket holds the records. They do not expire: a tag may be pruned long after it was
// mirrored last.
const bucket = "mirror_holdings"

var (
	// ErrMalformed is returned for an entry of the bucket that is not a record.
	ErrMalformed     = errors.New("not a record of mirrored tags")
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
	sum := sha256.Sum256([]byte(destination.String()))
	return mirror + "." + hex.EncodeToString(sum[:16])
}

// Add records observations of a destination repository under a mirror name. Nothing is
// written if it was seen before.
func (s *Store) Add(ctx context.Context, mirror string, destination reference.Repository, seen Seen) error {
	err := s.change(ctx, mirror, destination, func(r *Repository) bool { return r.add(seen) })
	if err != nil {
		return fmt.Errorf("recording the tags that were mirrored to %s: %w", destination, err)
	}
	return nil
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

// Lacks returns why a list has no entry that mirrors to a tag of a destination, or "" if it has
// one.
type Lacks func(destination reference.Repository, tag reference.Tag) Reason

// MarkList notes which tags of a mirror name its list, which was read at the given time, does
// not have, and which it has again.
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
			continue // the source does not have it, or a newer list has it
		}
		if t.drop(why, r.since(at)) {
			changed = true
		}
	}
	return changed
}

// change reads, changes and writes a record, again if another process has written it.
func (s *Store) change(ctx context.Context, mirror string, destination reference.Repository, change func(*Repository) bool) error {
	_, err := broker.Update(ctx, s.kv, key(mirror, destination), func(last jetstream.KeyValueEntry) ([]byte, error) {
		r := Repository{Destination: destination, Mirror: mirror}
		if last != nil {
			if known, err := parse(last.Value()); err == nil && known.Destination == destination && known.Mirror == mirror {
				r = known
			}
			r.written = last.Created().UTC()
		}
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

// List returns all records, of all mirror names, sorted by destination. An entry that is not a
// record is an error: without it, it is unknown which tags were mirrored.
func (s *Store) List(ctx context.Context) ([]Repository, error) {
	var all []Repository
	var bad error
	_, err := s.b.Entries(ctx, bucket, "*.*", 0, func(e jetstream.KeyValueEntry) {
		if e.Operation() != jetstream.KeyValuePut {
			return
		}
		r, err := parse(e.Value())
		if err == nil && e.Key() != key(r.Mirror, r.Destination) {
			err = fmt.Errorf("%w: it belongs under another key", ErrMalformed)
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
