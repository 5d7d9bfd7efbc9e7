// Package run keeps what is known of each run: what the planner published, and
// what the workers made of it. It only counts and describes; whether a run is
// over is told by the stream alone.
package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// Bucket holds runs and the progress of their chunks.
	Bucket = "mirror_runs"
	// Keep is how long a run is kept.
	Keep = 30 * 24 * time.Hour
)

// ErrNotFound is returned where no run has the given id.
var ErrNotFound = errors.New("no such run")

// The kinds of runs.
const (
	KindPlan      = "plan"
	KindRepublish = "republish"
)

// Run is what the planner did.
type Run struct {
	Name        string        `json:"name"`
	ID          string        `json:"run"`
	Kind        string        `json:"kind"`
	Chunks      int           `json:"chunks"` // messages published
	Entries     int           `json:"entries"`
	Destination string        `json:"destination,omitempty"`
	Started     time.Time     `json:"started"`
	FirstDue    time.Time     `json:"first_due"`
	Interval    time.Duration `json:"interval"`
	Published   bool          `json:"published"`
	// Fingerprint stands for the list and how it was split, so that `planner mirror`
	// knows the run that it did not finish.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Ended is StateCancelled or StateSuperseded where someone ended the run
	// before its chunks were all done.
	Ended string `json:"ended,omitempty"`
}

// NewID returns the id of a run: it sorts by time, to the millisecond, and is one
// token of a subject.
func NewID(now time.Time) string {
	now = now.UTC()
	return fmt.Sprintf("%s-%03d-%04x", now.Format("20060102-150405"), now.Nanosecond()/int(time.Millisecond), rand.N(1<<16))
}

// Tally counts the outcomes of images.
type Tally struct {
	Total     int `json:"total"`
	Copied    int `json:"copied"`
	Tagged    int `json:"tagged"`
	Unchanged int `json:"unchanged"`
	Skipped   int `json:"skipped"`
	Vanished  int `json:"vanished"` // the source has listed the tag, and denies it
	Failed    int `json:"failed"`
}

func (t *Tally) add(o Tally) {
	t.Total += o.Total
	t.Copied += o.Copied
	t.Tagged += o.Tagged
	t.Unchanged += o.Unchanged
	t.Skipped += o.Skipped
	t.Vanished += o.Vanished
	t.Failed += o.Failed
}

// Ended counts the images that have an outcome.
func (t Tally) Ended() int {
	return t.Copied + t.Tagged + t.Unchanged + t.Skipped + t.Vanished + t.Failed
}

// The states of one message.
const (
	Running = "running"
	Snoozed = "snoozed"
	Done    = "done"
)

// Progress is how far a worker has come with one message.
type Progress struct {
	State   string    `json:"state"`
	Images  Tally     `json:"images"`
	Pulls   int       `json:"pulls"`
	Bytes   int64     `json:"bytes"`
	Due     time.Time `json:"due,omitzero"` // of a snoozed message
	Updated time.Time `json:"updated"`
}

// Store reads and writes runs.
type Store struct {
	kv jetstream.KeyValue
	b  *broker.Broker
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

// Record stores the progress of the message at the address.
func (s *Store) Record(ctx context.Context, a subject.Address, p Progress) error {
	if err := s.put(ctx, progressKey(a), p); err != nil {
		return fmt.Errorf("storing the progress of chunk %s of run %s: %w", a.Token, a.Run, err)
	}
	return nil
}

// Progress returns what was last recorded of the message, and nothing where
// nothing was.
func (s *Store) Progress(ctx context.Context, a subject.Address) (Progress, error) {
	var p Progress
	entry, err := s.kv.Get(ctx, progressKey(a))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(entry.Value(), &p)
	}
	if err != nil {
		return p, fmt.Errorf("reading the progress of chunk %s of run %s: %w", a.Token, a.Run, err)
	}
	return p, nil
}

func progressKey(a subject.Address) string {
	return a.Name + "." + a.Run + "." + a.Registry + "." + a.Token
}

// Get returns a run by its id, or the newest of the mirror name where id is empty.
func (s *Store) Get(ctx context.Context, name, id string) (Run, error) {
	runs, err := s.List(ctx, name)
	if err != nil {
		return Run{}, err
	}
	for _, r := range runs {
		if id == "" || r.ID == id {
			return r, nil
		}
	}
	if id == "" {
		return Run{}, fmt.Errorf("%w: nothing has run under the name %s in the last %d days", ErrNotFound, name, int(Keep.Hours())/24)
	}
	return Run{}, fmt.Errorf("%w: %s under the name %s", ErrNotFound, id, name)
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
		var r Run
		if err := json.Unmarshal(entry.Value(), &r); err != nil {
			return nil, fmt.Errorf("reading run %s: %w", entry.Key(), err)
		}
		runs = append(runs, r)
	}
	return nil, fmt.Errorf("listing the runs of %s: %w", name, cmp.Or(context.Cause(ctx), errClosed))
}

// errClosed is why a watch ends that nobody has stopped.
var errClosed = errors.New("the connection was closed")

// End marks a run as cancelled or superseded.
func (s *Store) End(ctx context.Context, name, id, state string) error {
	r, err := s.Get(ctx, name, id)
	if err != nil {
		return err
	}
	r.Ended = state
	return s.Put(ctx, r)
}
