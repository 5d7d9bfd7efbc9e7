package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	bucketFleet = "mirror_metrics"
	keyFleet    = "fleet"

	// keepPicture is how old a picture may be: one look at the broker serves every
	// scrape of every worker for as long as Prometheus waits between two of one.
	keepPicture = 15 * time.Second
	// lookTimeout bounds a scrape. It is below Prometheus's own of 10 s.
	lookTimeout = 8 * time.Second
)

// Fleet looks at how the whole fleet stands. What one worker has found out is kept at
// the broker for the others.
type Fleet struct {
	broker   *broker.Broker
	budget   *budget.Store
	runs     *run.Store
	failures *failure.Store
	kv       jetstream.KeyValue
	log      *slog.Logger

	looking sync.Mutex
}

// NewFleet opens what Fleet looks at.
func NewFleet(ctx context.Context, b *broker.Broker, s *budget.Store, log *slog.Logger) (*Fleet, error) {
	runs, err := run.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucketFleet, Description: "skopeo-worker: how the fleet stands, for Prometheus"})
	if err != nil {
		return nil, err
	}
	return &Fleet{broker: b, budget: s, runs: runs, failures: failure.NewStore(b), kv: kv, log: log}, nil
}

// picture is how the fleet stood at some moment.
type picture struct {
	Registries []run.Registry    `json:"registries"`
	Waiting    int               `json:"waiting"`
	Snoozed    int               `json:"snoozed"`
	Due        int               `json:"due"`
	Running    int               `json:"running"`
	OldestDue  *time.Time        `json:"oldest_due,omitempty"`
	Mirrors    map[string]mirror `json:"mirrors"`
}

// look returns the last picture, or takes one where that is too old.
func (f *Fleet) look(ctx context.Context) (picture, error) {
	f.looking.Lock()
	defer f.looking.Unlock()
	var last picture
	entry, err := f.kv.Get(ctx, keyFleet)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return last, fmt.Errorf("reading how the fleet stands: %w", err)
	default:
		if err := json.Unmarshal(entry.Value(), &last); err != nil {
			f.log.Warn("what was known of the fleet cannot be read", "error", err)
			last = picture{}
		} else if f.budget.Now().Sub(entry.Created()) < keepPicture {
			return last, nil
		}
	}
	now, err := f.take(ctx, last.Mirrors)
	if err != nil {
		return last, err
	}
	data, err := json.Marshal(now)
	if err != nil {
		return last, err
	}
	if _, err := f.kv.Put(ctx, keyFleet, data); err != nil {
		return last, fmt.Errorf("storing how the fleet stands: %w", err)
	}
	return now, nil
}

// take asks the broker for everything; known is what was known of the mirror names.
func (f *Fleet) take(ctx context.Context, known map[string]mirror) (p picture, err error) {
	if p.Registries, err = f.budget.Report(ctx); err != nil {
		return p, err
	}
	if p.Waiting, err = f.count(ctx, subject.Plan); err != nil {
		return p, err
	}
	if p.Snoozed, err = f.count(ctx, subject.Later); err != nil {
		return p, err
	}
	workers, err := f.broker.Consumer.Info(ctx)
	if err != nil {
		return p, fmt.Errorf("asking for the consumer: %w", err)
	}
	p.Due, p.Running = int(workers.NumPending), workers.NumAckPending
	oldest, err := f.broker.Stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject.Chunk+".>"))
	switch {
	case err == nil:
		p.OldestDue = &oldest.Time
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return p, fmt.Errorf("asking for the oldest chunk: %w", err)
	}
	p.Mirrors, err = f.mirrors(ctx, known)
	return p, err
}

// count counts the messages below a subject, of which each has its own.
func (f *Fleet) count(ctx context.Context, root string) (int, error) {
	info, err := f.broker.Stream.Info(ctx, jetstream.WithSubjectFilter(root+".>"))
	if err != nil {
		return 0, fmt.Errorf("counting %s: %w", root, err)
	}
	return len(info.State.Subjects), nil
}
