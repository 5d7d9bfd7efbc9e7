package metrics

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

const (
	bucketFleet = "mirror_metrics"
	keyFleet    = "fleet"

	// renewAfter is the age at which the worker that took a picture takes the next one. It has
	// to read only changes.
	renewAfter = 10 * time.Second
	// takeOver is the age at which any worker takes the next picture.
	takeOver = 45 * time.Second
	// lookTimeout limits a scrape to half of the default timeout of Prometheus.
	lookTimeout = 5 * time.Second
	// keepRegistry is how long a registry stays in the metrics after it was last in use.
	keepRegistry = 24 * time.Hour
)

// errNoBroker is returned without a wait if the connection is down, so that the scrape has at
// least the worker's own metrics.
var errNoBroker = errors.New("the broker is not connected")

// Fleet reads the state of the whole fleet. One worker stores it at the broker for the others.
type Fleet struct {
	id       string // of this worker
	broker   *broker.Broker
	budget   *budget.Store
	runs     *run.Ledger
	failures *failure.Counter
	prunes   *prune.Store
	kv       jetstream.KeyValue
	log      *slog.Logger
	now      func() time.Time // the broker's time

	turn         *semaphore.Weighted // admits one call of look at a time
	unsuccessful map[uint64]bool     // runs that ended without success, by the revision of their entry
}

// NewFleet opens the stores that Fleet reads.
func NewFleet(ctx context.Context, b *broker.Broker, s *budget.Store, log *slog.Logger) (*Fleet, error) {
	runs, err := run.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucketFleet, Description: "skopeo-worker: metrics of the fleet"})
	if err != nil {
		return nil, err
	}
	prunes, err := prune.OpenStore(ctx, b)
	if err != nil {
		return nil, err
	}
	return &Fleet{
		id: rand.Text(), prunes: prunes, broker: b, budget: s, runs: runs.Ledger(), failures: failure.NewStore(b, log).Counter(),
		kv: kv, log: log, now: s.Now, turn: semaphore.NewWeighted(1),
	}, nil
}

// picture is the state of the fleet at a moment.
type picture struct {
	By         string               `json:"by"` // the worker that took it
	Registries []run.Registry       `json:"registries"`
	Seen       map[string]time.Time `json:"seen"` // when each registry was last in Registries
	Waiting    int                  `json:"waiting"`
	Snoozed    int                  `json:"snoozed"`
	SnoozedFor map[string]int       `json:"snoozed_for"` // by source registry
	Due        int                  `json:"due"`
	Running    int                  `json:"running"`
	OldestDue  *time.Time           `json:"oldest_due,omitempty"`
	Unreadable int                  `json:"unreadable"` // messages among the failures
	Mirrors    map[string]mirror    `json:"mirrors"`
	Pruned     map[string]pruned    `json:"pruned"`
}

// look returns the last picture, or takes a new one if that is too old.
func (f *Fleet) look(ctx context.Context) (picture, error) {
	if !f.broker.Conn.IsConnected() {
		return picture{}, errNoBroker
	}
	if err := f.turn.Acquire(ctx, 1); err != nil {
		return picture{}, err
	}
	defer f.turn.Release(1)
	var last picture
	var revision uint64
	entry, err := f.kv.Get(ctx, keyFleet)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return last, fmt.Errorf("reading the stored metrics of the fleet: %w", err)
	default:
		revision = entry.Revision()
		if err := json.Unmarshal(entry.Value(), &last); err != nil {
			f.log.Warn("cannot read the stored metrics of the fleet", "error", err)
			last = picture{}
		} else if age := f.now().Sub(entry.Created()); age < renewAfter || age < takeOver && last.By != f.id {
			return last, nil
		}
	}
	next, err := f.take(ctx, last)
	if err != nil {
		return last, err
	}
	return next, f.keep(ctx, next, revision)
}

// keep stores the picture for the other workers, unless one of them has stored a newer one.
func (f *Fleet) keep(ctx context.Context, p picture, revision uint64) error {
	data, err := json.Marshal(p)
	if err == nil {
		_, err = f.kv.Update(ctx, keyFleet, data, revision)
	}
	if err != nil && !errors.Is(err, broker.ErrConflict) {
		return fmt.Errorf("storing the metrics of the fleet: %w", err)
	}
	return nil
}

// take reads a new picture from the broker.
func (f *Fleet) take(ctx context.Context, last picture) (p picture, err error) {
	p.By = f.id
	if p.Registries, err = estimate.Registries(ctx, f.budget); err != nil {
		return p, err
	}
	p.Seen = f.seen(last.Seen, p.Registries)
	if p.Waiting, err = f.broker.Count(ctx, subject.Plan+".>"); err != nil {
		return p, err
	}
	if p.Snoozed, err = f.broker.Count(ctx, subject.Later+".>"); err != nil {
		return p, err
	}
	if p.SnoozedFor, err = f.snoozedFor(ctx, p); err != nil {
		return p, err
	}
	if err = f.queue(ctx, &p); err != nil {
		return p, err
	}
	failed, err := f.failures.Count(ctx)
	if err != nil {
		return p, err
	}
	p.Unreadable = failed.Unreadable
	if p.Mirrors, err = f.mirrors(ctx, last.Mirrors, failed); err != nil {
		return p, err
	}
	p.Pruned, err = f.pruned(ctx)
	return p, err
}

// seen adds the known registries to those of earlier pictures, so that a registry that is open
// again is exported as open.
func (f *Fleet) seen(before map[string]time.Time, now []run.Registry) map[string]time.Time {
	seen := map[string]time.Time{}
	for registry, at := range before {
		if f.now().Sub(at) < keepRegistry {
			seen[registry] = at
		}
	}
	for _, r := range now {
		seen[r.Registry] = f.now()
	}
	return seen
}

// snoozedFor counts the snoozed chunks of each known registry.
func (f *Fleet) snoozedFor(ctx context.Context, p picture) (map[string]int, error) {
	counts := map[string]int{}
	for _, r := range p.Registries {
		counts[r.Registry] = 0
		if p.Snoozed > 0 {
			var err error
			if counts[r.Registry], err = f.broker.Count(ctx, subject.OfRegistryUnder(subject.Later, r.Registry)); err != nil {
				return nil, err
			}
		}
	}
	return counts, nil
}

// queue adds the state of the consumer: the due chunks, and those that workers have.
func (f *Fleet) queue(ctx context.Context, p *picture) error {
	workers, err := f.broker.Consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("reading the consumer: %w", err)
	}
	p.Due, p.Running = int(workers.NumPending), workers.NumAckPending
	if p.Due == 0 {
		return nil
	}
	oldest, err := f.broker.Stream.GetMsg(ctx, workers.Delivered.Stream+1, jetstream.WithGetMsgSubject(subject.Chunk+".>"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // a worker has just taken it
	}
	if err != nil {
		return fmt.Errorf("reading the oldest chunk: %w", err)
	}
	p.OldestDue = &oldest.Time
	return nil
}
