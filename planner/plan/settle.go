package plan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// Settle decides what becomes of runs whose process was killed while it published them. These are runs
// of the mirror name that were stored before the given time, by the broker's clock, and are not published.
// It returns their new state.
//
//   - A plan that lacks a chunk is cancelled, so that the next plan replaces it.
//   - A republish keeps the chunks that it has published. Failures that it has not published are still
//     recorded. If it has published no chunk, it is deleted.
//   - A plan with all of its chunks counts as published.
func (e *Ender) Settle(ctx context.Context, name string, before time.Time) ([]run.Run, error) {
	entries, err := e.Runs.Entries(ctx, name)
	if err != nil {
		return nil, err
	}
	var settled []run.Run
	for _, entry := range entries {
		if entry.Published || entry.Ended != "" || !entry.Stored.Before(before) {
			continue
		}
		switch r, err := e.settle(ctx, entry.Run); {
		case err == nil:
			settled = append(settled, r)
		case !errors.Is(err, run.ErrNotFound): // its process has deleted it
			return settled, fmt.Errorf("settling run %s: %w", entry.ID, err)
		}
	}
	return settled, nil
}

func (e *Ender) settle(ctx context.Context, r run.Run) (run.Run, error) {
	chunks, err := e.published(ctx, r)
	if err != nil {
		return r, err
	}
	switch {
	case r.Kind == run.KindRepublish && chunks == 0:
		r.Interrupted = true
		return r, e.Runs.Delete(ctx, r.Name, r.ID)
	case r.Kind == run.KindPlan && chunks < r.Chunks:
		if r, err = e.Runs.Update(ctx, r.Name, r.ID, func(r *run.Run) { r.Interrupted = true }); err != nil {
			return r, err
		}
		_, err = e.End(ctx, r, run.StateCancelled)
		return r, err
	}
	return e.Runs.Update(ctx, r.Name, r.ID, func(r *run.Run) {
		// Nothing shows how many chunks a republish would have published.
		r.Interrupted = r.Kind == run.KindRepublish
		r.Chunks, r.Published = chunks, true
	})
}

// published counts the chunks of a run that are in the stream or that a worker has received.
func (e *Ender) published(ctx context.Context, r run.Run) (int, error) {
	chunks := map[string]bool{}
	_, err := e.Broker.Changes(ctx, broker.StreamName, subject.OfRun(r.Name, r.ID), 0, func(m *jetstream.RawStreamMsg) error {
		if a, err := subject.ParseAddress(m.Subject); err == nil {
			chunks[base(a)] = true
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	begun, err := e.Runs.AllProgress(ctx, r.Name, r.ID)
	for a := range begun {
		chunks[base(a)] = true
	}
	return len(chunks), err
}
