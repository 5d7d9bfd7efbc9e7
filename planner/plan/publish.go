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
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

// undoTimeout bounds how long Publish takes to undo a plan that it could not publish.
const undoTimeout = 10 * time.Second

// errEnded is returned for a run that another process has ended while it was published.
var errEnded = exit.Unfinished.New("unfinished")

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
// If publishing fails, Publish cancels the run. If another process has ended the run meanwhile, such as a
// newer plan that was published faster, the chunks are dropped, and the error is of the kind
// exit.Unfinished.
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
		if err := p.supersede(ctx, r); err != nil {
			return r, err
		}
	}
	r, err = p.Runs.Update(ctx, r.Name, r.ID, func(r *run.Run) { r.Published = true })
	switch {
	case err != nil:
		return r, err
	case r.Ended != "": // chunks that were stored after that are still there
		_, err = p.ender().End(ctx, r, r.Ended)
		return r, errors.Join(fmt.Errorf("%w: run %s was %s while it was published", errEnded, r.ID, r.Ended), err)
	}
	p.Broker.FireDue(ctx, msgs, first, handover, began)
	return r, nil
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
// purges the planned chunks of other older runs, whose record is gone or which were not ended completely.
// It does not end republished runs, and leaves newer plans alone, even if these were published before.
func (p *Publisher) supersede(ctx context.Context, r run.Run) error {
	info, err := p.Broker.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfNameAnywhere(r.Name)))
	if err != nil {
		return fmt.Errorf("looking for older runs of %s: %w", r.Name, err)
	}
	unfinished, planned := map[string]bool{}, map[string]bool{}
	for subj := range info.State.Subjects {
		if a, err := subject.ParseAddress(subj); err == nil {
			unfinished[a.Run] = true
			if a.Run < r.ID && strings.HasPrefix(subj, subject.Plan+".") {
				planned[a.Run] = true
			}
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
		switch _, err := p.ender().End(ctx, older, run.StateSuperseded); {
		case err == nil:
			delete(planned, older.ID)
		case !errors.Is(err, run.ErrNotFound):
			return err
		}
	}
	for id := range planned {
		if err := p.Broker.Stream.Purge(ctx, jetstream.WithPurgeSubject(subject.OfRunUnder(subject.Plan, r.Name, id))); err != nil {
			return fmt.Errorf("dropping the older plans of %s: %w", r.Name, err)
		}
	}
	return nil
}
