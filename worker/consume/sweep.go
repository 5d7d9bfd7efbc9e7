package consume

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// sweepInterval is how often somebody in the fleet looks for stuck schedules.
	sweepInterval = time.Minute
	// overdue is how late a schedule must be to count as stuck.
	overdue = time.Minute
)

// sweep fires the schedules that the server did not: those that came due while its
// store was full stay where they are until it restarts.
func (c *Consumer) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			switch err := c.Sweep(ctx, c.now()); {
			case err == nil || ctx.Err() != nil:
			case errors.Is(err, broker.ErrFull):
				c.log.Error("the broker stores nothing", "error", err)
			default:
				c.log.Warn("looking for overdue chunks", "error", err)
			}
		}
	}
}

// Sweep looks once, for runs that have lost chunks, too. Of many workers, one a minute
// does.
func (c *Consumer) Sweep(ctx context.Context, now time.Time) error {
	claimed, err := c.runs.ClaimSweep(ctx, now, sweepInterval)
	if err != nil || !claimed {
		return c.broker.Explain(err)
	}
	suspects, err := c.runs.Overdue(ctx, now.Add(-overdue))
	if err != nil {
		return err
	}
	failed := []error{c.lost(ctx)}
	for _, subj := range suspects {
		failed = append(failed, c.fire(ctx, subj, now))
	}
	return errors.Join(failed...)
}

func (c *Consumer) fire(ctx context.Context, subj string, now time.Time) error {
	m, err := c.broker.Stream.GetLastMsgForSubject(ctx, subj)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // it fired just now
	}
	if err != nil {
		return err
	}
	due, _, ok := broker.Due(m.Header)
	if !ok || now.Sub(due) < overdue {
		return nil
	}
	err = c.broker.Fire(ctx, m)
	if errors.Is(err, broker.ErrConflict) {
		return nil
	}
	if err == nil {
		c.log.Warn("a chunk was overdue", "subject", subj, "due", due)
	}
	return err
}
