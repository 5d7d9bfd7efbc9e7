package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// reasonCancelled stands in the failure record of an image that was republished
// and cancelled before it was tried again.
const reasonCancelled = "cancelled before it was tried again"

// Canceller drops what is not yet due.
type Canceller struct {
	Broker   *broker.Broker
	Runs     *run.Store
	Failures *failure.Store
}

// Cancel drops what the run has planned and snoozed, and returns how many messages
// that were. What is due is left to the workers. Republished images become
// failures again before their message is dropped.
func (c *Canceller) Cancel(ctx context.Context, r run.Run) (int, error) {
	info, err := c.Broker.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfRun(r.Name, r.ID)))
	if err != nil {
		return 0, fmt.Errorf("looking for what is left of run %s: %w", r.ID, err)
	}
	dropped := 0
	for subj := range info.State.Subjects {
		if strings.HasPrefix(subj, subject.Later+".") {
			n, err := c.drop(ctx, subj)
			if err != nil {
				return dropped, err
			}
			dropped += n
		} else if strings.HasPrefix(subj, subject.Plan+".") {
			dropped++
		}
	}
	if err := c.Broker.Stream.Purge(ctx, jetstream.WithPurgeSubject(subject.OfRunUnder(subject.Plan, r.Name, r.ID))); err != nil {
		return dropped, fmt.Errorf("dropping the plan of run %s: %w", r.ID, err)
	}
	if dropped == 0 {
		return 0, nil
	}
	return dropped, c.Runs.End(ctx, r.Name, r.ID, run.StateCancelled)
}

// drop deletes a remainder, by its sequence: one that has fired meanwhile is the
// workers'.
func (c *Canceller) drop(ctx context.Context, subj string) (int, error) {
	m, err := c.Broker.Stream.GetLastMsgForSubject(ctx, subj)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", subj, err)
	}
	remainder, err := message.Decode(m.Data)
	if err != nil {
		// Only a newer worker knows what is in it.
		return 0, fmt.Errorf("cancelling %s: %w", subj, err)
	}
	if remainder.Republished {
		for _, r := range remainder.Repositories {
			if err := c.Failures.Add(ctx, remainder.Name, failure.Of(remainder, r, r.Images, reasonCancelled)); err != nil {
				return 0, err
			}
		}
	}
	err = c.Broker.Stream.DeleteMsg(ctx, m.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("dropping %s: %w", subj, err)
	}
	return 1, nil
}
