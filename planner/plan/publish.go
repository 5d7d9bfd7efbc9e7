package plan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

// undoTimeout bounds how long Publish takes to undo a plan that it could not publish.
const undoTimeout = 10 * time.Second

// Publisher publishes plans.
type Publisher struct {
	Broker   *broker.Broker
	Runs     *run.Store
	Failures *failure.Store
	// Waiting is called if the run has to wait for an execution of a prune plan.
	Waiting func(prune.Holder)
}

// Publish stores the chunks as schedules of the run, and returns the run as it is stored. It fires chunks
// that are due. A full plan supersedes the older plans of the name, whose remaining chunks are dropped.
// If publishing fails, Publish cancels the run.
func (p *Publisher) Publish(ctx context.Context, r run.Run, chunks []Chunk, full bool) (run.Run, error) {
	began := time.Now()
	now, err := p.Broker.Time(ctx)
	if err != nil {
		return r, err
	}
	handover := now.Add(broker.Handover)
	msgs, err := schedules(r.Name, r.ID, chunks, handover)
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
	first, err := p.publish(ctx, r, msgs)
	if err != nil {
		return r, errors.Join(fmt.Errorf("publishing run %s: %w", r.ID, err), p.undo(context.WithoutCancel(ctx), r))
	}
	if full {
		if err := p.supersede(ctx, r, first); err != nil {
			return r, err
		}
	}
	// A newer plan may have ended this run already.
	r, err = p.Runs.Update(ctx, r.Name, r.ID, func(r *run.Run) { r.Published = true })
	if err == nil {
		p.Broker.FireDue(ctx, msgs, first, handover, began)
	}
	return r, err
}

// publish stores the chunks. It waits until no prune plan is being executed at the destination.
func (p *Publisher) publish(ctx context.Context, r run.Run, msgs []*nats.Msg) (first uint64, err error) {
	if err := prune.Await(ctx, p.Broker, r.Destination, p.Waiting); err != nil {
		return 0, err
	}
	return p.Broker.PublishAll(ctx, msgs)
}

// schedules returns the messages of the chunks. The server fires those that are due at handover, unless
// Publish does so before.
func schedules(name, id string, chunks []Chunk, handover time.Time) ([]*nats.Msg, error) {
	var msgs []*nats.Msg
	now := time.Now()
	for _, c := range chunks {
		due := c.Due
		if !due.After(now) {
			due = handover
		}
		pieces, err := message.Split(c.message(name, id))
		if err != nil {
			return nil, err
		}
		for i, piece := range pieces {
			data, err := piece.Encode()
			if err != nil {
				return nil, err
			}
			msgs = append(msgs, broker.Scheduled(subject.Plan, c.address(name, id, i), due, data))
		}
	}
	return msgs, nil
}

// undo cancels the run, so that the batches that were stored are dropped.
func (p *Publisher) undo(ctx context.Context, r run.Run) error {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	if _, err := p.ender().End(ctx, r, run.StateCancelled); err != nil {
		return fmt.Errorf("cancelling run %s: %w; cancel it with planner cancel %s", r.ID, err, r.ID)
	}
	return nil
}

func (p *Publisher) ender() *Ender {
	return &Ender{Broker: p.Broker, Runs: p.Runs, Failures: p.Failures}
}

// supersede ends the older plans of the name that are not over or are still being published. Then it
// purges all older planned chunks, even if the record of their run is gone: they have a lower sequence
// than the first message of the new plan. It does not end republished runs.
func (p *Publisher) supersede(ctx context.Context, r run.Run, first uint64) error {
	info, err := p.Broker.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfNameAnywhere(r.Name)))
	if err != nil {
		return fmt.Errorf("looking for older runs of %s: %w", r.Name, err)
	}
	unfinished := map[string]bool{}
	for subj := range info.State.Subjects {
		if a, err := subject.ParseAddress(subj); err == nil {
			unfinished[a.Run] = true
		}
	}
	runs, err := p.Runs.List(ctx, r.Name)
	if err != nil {
		return err
	}
	for _, older := range runs {
		if older.ID >= r.ID || older.Kind != run.KindPlan || older.Ended != "" || older.Published && !unfinished[older.ID] {
			continue
		}
		if _, err := p.ender().End(ctx, older, run.StateSuperseded); err != nil && !errors.Is(err, run.ErrNotFound) {
			return err
		}
	}
	if first <= 1 {
		// Nothing is older. Servers before 2.14.2 would purge everything, including the new plan, if
		// asked to purge up to sequence 1 (nats-server#4696).
		return nil
	}
	plans := subject.OfName(subject.Plan, r.Name)
	if err := p.Broker.Stream.Purge(ctx, jetstream.WithPurgeSubject(plans), jetstream.WithPurgeSequence(first)); err != nil {
		return fmt.Errorf("dropping the older plans of %s: %w", r.Name, err)
	}
	return nil
}
