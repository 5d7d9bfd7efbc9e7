package consume

import (
	"context"

	"github.com/osism/skopeo-worker/shared/run"
)

// lost logs which of the newest runs have lost chunks, each once. The planner, which
// ends with its plan, cannot.
func (c *Consumer) lost(ctx context.Context) error {
	names, err := c.ledger.List(ctx)
	if err != nil {
		return err
	}
	for _, runs := range names {
		seen := map[string]bool{} // a republish is newer than the plan, and does not replace it
		for _, e := range runs {
			if seen[e.Kind] {
				continue
			}
			seen[e.Kind] = true
			if err := c.lostOf(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Consumer) lostOf(ctx context.Context, e run.Entry) error {
	if c.settled[e.Revision] {
		return nil
	}
	status, final, err := c.ledger.Status(ctx, e)
	if err != nil {
		return err
	}
	if status.State == run.StateLost {
		c.log.Error("chunks of a run are lost: they are neither done nor at the broker, and the run was not ended; plan again",
			"mirror", e.Name, "run", e.ID, "lost", status.Chunks.Lost, "chunks", status.Chunks.Total)
	}
	c.settled[e.Revision] = final || status.State == run.StateLost
	return nil
}
