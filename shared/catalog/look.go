package catalog

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// rewriteAfter is the age at which an unchanged record is written again, so that it does not expire.
const rewriteAfter = run.Keep / 3

// look records that repositories were looked at and had not changed. One look replaces a write for
// each of them.
type look struct {
	Key string    `json:"key"` // its own
	At  time.Time `json:"at"`
	Of  []string  `json:"of"` // keys of the repositories
}

// lookMark is in the keys of looks, and not in those of records.
const lookMark = ".look-"

// lookKey returns the key of a look at repositories. The next look at the same repositories has the
// same key.
func lookKey(name string, all []Repository) string {
	keys := make([]string, len(all))
	for i, r := range all {
		keys[i] = key(name, r.Source)
	}
	slices.Sort(keys)
	return name + lookMark + subject.Hash(strings.Join(keys, ""))
}

// add adds a repository. The time of a look is the earliest one of its repositories.
func (l *look) add(key string, at time.Time) {
	l.Of = append(l.Of, key)
	if l.At.IsZero() || at.Before(l.At) {
		l.At = at
	}
}

// parseLook reads a look. It returns false for anything else.
func parseLook(e jetstream.KeyValueEntry) (look, bool) {
	var l look
	if !strings.Contains(e.Key(), lookMark) || e.Operation() != jetstream.KeyValuePut || json.Unmarshal(e.Value(), &l) != nil {
		return look{}, false
	}
	return l, l.Key == e.Key()
}

// isHeld reports whether the destination has the mirrored image of the tag.
func (t Tag) isHeld() bool {
	return !t.At.IsZero() && (t.State == run.Copied || t.State == run.Tagged || t.State == run.Unchanged)
}

// isAs reports whether a seen tag equals the recorded one, apart from times.
func (t Tag) isAs(recorded Tag) bool {
	same := t.State == recorded.State || t.State == run.Unchanged && t.isHeld() && recorded.isHeld()
	return same && t.Source == recorded.Source && (t.At == recorded.At || t.At.IsZero()) && t.Pinned == recorded.Pinned &&
		cut(t.Why) == recorded.Why && t.Until.Equal(recorded.Until)
}

// isConfirmedBy reports whether a record equals what a worker has seen of the repository.
func (r Repository) isConfirmedBy(seen Repository) bool {
	if r.Unseen() || r.More || r.Source != seen.Source || r.Destination != seen.Destination || seen.Checked.Before(r.Checked) ||
		r.Why != "" || seen.Why != "" || r.Listed.IsZero() != seen.Listed.IsZero() {
		return false
	}
	recorded := make(map[reference.Tag]Tag, len(r.Tags))
	for _, t := range r.Tags {
		recorded[t.Name] = t
	}
	for _, t := range seen.Tags {
		if known, ok := recorded[t.Name]; !ok || !t.isAs(known) {
			return false
		}
		delete(recorded, t.Name)
	}
	for _, t := range recorded {
		if t.State != run.Vanished {
			return false
		}
	}
	return true
}

// lookedAt returns the record with the time of a look. at is zero if there was no look.
func (r Repository) lookedAt(at time.Time) Repository {
	if !at.After(r.Checked) || r.Unseen() {
		return r
	}
	r.Checked = at
	if !r.Listed.IsZero() {
		r.Listed = at
	}
	r.Tags = slices.Clone(r.Tags)
	for i := range r.Tags {
		t := &r.Tags[i]
		if t.State == run.Vanished {
			continue
		}
		t.Checked = at
		if t.isHeld() {
			t.State = run.Unchanged
		}
	}
	return r
}
