package consume

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// sweepInterval is the time between two sweeps of the fleet.
	sweepInterval = time.Minute
	// overdue is how late a schedule is fired by a sweep.
	overdue = time.Minute
)

// sweep calls sweepOnce now and then once a minute.
func (c *Consumer) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		switch err := c.sweepOnce(ctx, c.now()); {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, broker.ErrFull):
			c.log.Error("the broker cannot store messages", "error", err)
		default:
			c.log.Warn("looking for overdue chunks", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// sweepOnce fires overdue schedules, and logs runs that have lost chunks. Each minute, it does so in
// one worker of the fleet and nothing in the others. nats-server does not fire a schedule that is
// due while its store is full until it restarts. sweepOnce also deletes messages under the subjects of
// schedules that are not schedules, because no worker would receive them.
func (c *Consumer) sweepOnce(ctx context.Context, now time.Time) error {
	claimed, err := c.runs.ClaimSweep(ctx, now, sweepInterval)
	if err != nil || !claimed {
		return c.broker.Explain(err)
	}
	suspects, err := c.runs.Overdue(ctx, now.Add(-overdue))
	if err != nil {
		return err
	}
	failed := []error{c.logLost(ctx)}
	for _, subj := range append(suspects, subject.Roots) {
		_, err := c.broker.Changes(ctx, broker.StreamName, subj, 0, func(m *jetstream.RawStreamMsg) error {
			failed = append(failed, c.settle(ctx, m, now))
			return nil
		})
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// settle fires a schedule that is overdue, and deletes a message that is not a schedule.
func (c *Consumer) settle(ctx context.Context, m *jetstream.RawStreamMsg, now time.Time) error {
	if stray(m) {
		c.log.Warn("deleted a foreign message among the schedules",
			"message", failure.MessageName(m.Sequence, m.Subject), "content", message.Excerpt(m.Data))
		if err := c.broker.Delete(ctx, m.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
		return nil
	}
	due, _, ok := broker.Due(m.Header)
	if !ok || now.Sub(due) < overdue {
		return nil
	}
	err := c.broker.Fire(ctx, m)
	if errors.Is(err, broker.ErrConflict) {
		return nil // it has fired meanwhile
	}
	if err == nil {
		c.log.Warn("a chunk was overdue", "subject", m.Subject, "due", due)
	}
	return err
}

// stray reports whether a message under the schedules' subjects, or on one of the roots, is
// not a schedule. The subject of a schedule has six tokens in every version, and the
// schedule's target is the chunk with the same address.
func stray(m *jetstream.RawStreamMsg) bool {
	if !strings.Contains(strings.TrimPrefix(m.Subject, "mirror."), ".") {
		return slices.Contains([]string{subject.Plan, subject.Later, subject.Chunk, subject.Failed}, m.Subject)
	}
	a, err := subject.ParseAddress(m.Subject)
	return err != nil || broker.Target(m.Header) != a.Under(subject.Chunk)
}

// logLost logs the newest runs that have lost chunks, each once. The planner cannot, because
// it ends with its plan.
func (c *Consumer) logLost(ctx context.Context) error {
	names, err := c.ledger.List(ctx)
	if err != nil {
		return err
	}
	for _, runs := range names {
		seen := map[string]bool{} // kinds: a republish does not replace an older plan
		for _, r := range runs {
			if seen[r.Kind] {
				continue
			}
			seen[r.Kind] = true
			if err := c.logLostOf(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Consumer) logLostOf(ctx context.Context, r run.Entry) error {
	if c.settled[r.Revision] {
		return nil
	}
	status, final, err := c.ledger.Status(ctx, r)
	if err != nil {
		return err
	}
	if status.State == run.StateLost {
		c.log.Error("chunks of a run are lost: they are neither done nor at the broker, and the run was not ended; plan again",
			"mirror", r.Name, "run", r.ID, "lost", status.Chunks.Lost, "chunks", status.Chunks.Total)
	}
	c.settled[r.Revision] = final || status.State == run.StateLost
	return nil
}
