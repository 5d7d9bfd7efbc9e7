package budget

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// view is what this process knows of the buckets.
type view struct {
	told     map[string]told    // limits set and learned, by key
	found    map[string]found   // rates found, by key
	turns    map[string]turn    // mirror names that wait, by key
	closed   map[string]closure // by key
	revision map[string]uint64  // of the last entry applied, by bucket and key
	heard    map[string]uint64  // the revision up to which nothing is missing, by bucket
}

func newView() view {
	return view{told: map[string]told{}, found: map[string]found{}, turns: map[string]turn{}, closed: map[string]closure{}, revision: map[string]uint64{}, heard: map[string]uint64{}}
}

// newer reports whether the entry is newer than what is known, and notes it.
func (v *view) newer(bucket, key string, revision uint64) bool {
	place := bucket + "/" + key
	if revision <= v.revision[place] {
		return false
	}
	v.revision[place] = revision
	return true
}

// hear takes an entry of a watch or a list into the view. They come in the order of
// their revisions, so nothing older is missing then.
func (s *Store) hear(entry jetstream.KeyValueEntry) {
	s.apply(entry)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.heard[entry.Bucket()] = max(s.view.heard[entry.Bucket()], entry.Revision())
}

// apply takes an entry into the view, unless a newer one is there.
func (s *Store) apply(entry jetstream.KeyValueEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &s.view
	if !v.newer(entry.Bucket(), entry.Key(), entry.Revision()) {
		return
	}
	var err error
	kind, _, _ := strings.Cut(entry.Key(), ".")
	switch {
	case entry.Bucket() == bucketClosed:
		err = put(v.closed, entry, func(c *closure) bool { c.at = entry.Created(); return c.Duration >= 0 })
	case kind == keyFound:
		err = put(v.found, entry, func(f *found) bool { return f.Rate >= 0 })
	case kind == keyTurn:
		err = put(v.turns, entry, func(*turn) bool { return true })
	default:
		err = put(v.told, entry, func(t *told) bool { t.at = entry.Created(); return t.Limit.Requests > 0 && t.Limit.Window > 0 })
	}
	if err != nil {
		s.log.Warn("an entry of the shared budget cannot be read", "bucket", entry.Bucket(), "key", entry.Key(), "error", err)
	}
}

// errNoEntry is returned for valid JSON that no worker or planner has written.
var errNoEntry = errors.New("not an entry of its key")

// put stores an entry's value under its key, or removes it. complete fills in the rest of
// the value and returns false if it is not valid.
func put[T any](m map[string]T, entry jetstream.KeyValueEntry, complete func(*T) bool) error {
	if entry.Operation() != jetstream.KeyValuePut {
		delete(m, entry.Key())
		return nil
	}
	var value T
	if err := json.Unmarshal(entry.Value(), &value); err != nil {
		return err
	}
	if !complete(&value) {
		return errNoEntry
	}
	m[entry.Key()] = value
	return nil
}

// told is a limit that somebody has told us.
type told struct {
	Registry string `json:"registry"`
	Identity string `json:"identity,omitempty"`
	Limit    Limit  `json:"limit"`

	at time.Time // by the broker's clock
}
