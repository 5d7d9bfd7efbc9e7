package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// undoTimeout bounds taking back a plan that could not be published.
const undoTimeout = 10 * time.Second

// Publisher publishes plans.
type Publisher struct {
	Broker *broker.Broker
	Runs   *run.Store
}

// Publish stores the chunks as schedules of the run. A full plan then takes the
// place of what older runs of the name have not begun. The run is returned as it
// was stored. Where Publish fails, the plan is taken back.
func (p *Publisher) Publish(ctx context.Context, r run.Run, chunks []Chunk, full bool) (run.Run, error) {
	msgs, err := schedules(r.Name, r.ID, chunks)
	if err != nil {
		return r, err
	}
	r.Chunks = len(msgs)
	for _, c := range chunks {
		r.Entries += len(c.Entries)
	}
	if err := p.Runs.Put(ctx, r); err != nil {
		return r, err
	}
	first, err := p.Broker.PublishAll(ctx, msgs)
	if err != nil {
		return r, errors.Join(fmt.Errorf("publishing run %s: %w", r.ID, err), p.undo(context.WithoutCancel(ctx), r))
	}
	if full {
		if err := p.supersede(ctx, r, first); err != nil {
			return r, err
		}
	}
	r.Published = true
	return r, p.Runs.Put(ctx, r)
}

func schedules(name, id string, chunks []Chunk) ([]*nats.Msg, error) {
	var msgs []*nats.Msg
	for _, c := range chunks {
		pieces, err := message.Split(c.message(name, id))
		if err != nil {
			return nil, err
		}
		for i, piece := range pieces {
			data, err := piece.Encode()
			if err != nil {
				return nil, err
			}
			msgs = append(msgs, broker.Scheduled(subject.Plan, c.address(name, id, i), c.Due, data))
		}
	}
	return msgs, nil
}

// undo takes back the batches that were stored before one failed.
func (p *Publisher) undo(ctx context.Context, r run.Run) error {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	if err := p.Broker.Stream.Purge(ctx, jetstream.WithPurgeSubject(subject.OfRunUnder(subject.Plan, r.Name, r.ID))); err != nil {
		return fmt.Errorf("taking run %s back: %w; planner cancel %s does so by hand", r.ID, err, r.ID)
	}
	r.Ended = run.StateCancelled
	return p.Runs.Put(ctx, r)
}

// supersede drops what older runs of the name have planned and not begun: what is
// in the stream below the plan's own first message.
func (p *Publisher) supersede(ctx context.Context, r run.Run, first uint64) error {
	if first <= 1 {
		// There is nothing older. Servers before 2.14.2 purge everything where they are
		// asked for what is below sequence 1 (nats-server#4696), our own plan with it.
		return nil
	}
	plans := subject.OfName(subject.Plan, r.Name)
	info, err := p.Broker.Stream.Info(ctx, jetstream.WithSubjectFilter(plans))
	if err != nil {
		return fmt.Errorf("looking for older runs of %s: %w", r.Name, err)
	}
	older := map[string]bool{}
	for subj := range info.State.Subjects {
		if a, err := subject.ParseAddress(subj); err == nil && strings.Compare(a.Run, r.ID) < 0 {
			older[a.Run] = true
		}
	}
	if err := p.Broker.Stream.Purge(ctx, jetstream.WithPurgeSubject(plans), jetstream.WithPurgeSequence(first)); err != nil {
		return fmt.Errorf("dropping the older plans of %s: %w", r.Name, err)
	}
	for id := range older {
		if err := p.Runs.End(ctx, r.Name, id, run.StateSuperseded); err != nil && !errors.Is(err, run.ErrNotFound) {
			return err
		}
	}
	return nil
}
