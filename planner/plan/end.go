package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// writers bounds how many messages are dropped at once.
const writers = 16

// Dropped counts the chunks and images of a run that End has dropped.
type Dropped struct {
	Chunks   int // chunks that no worker has
	Images   int // images of these chunks; an unresolved repository counts as one
	UnderWay int // chunks that workers have and may finish
	Unread   int // republished messages of a newer version, which only newer workers can drop
}

// Ender ends runs that are not over.
type Ender struct {
	Broker   *broker.Broker
	Runs     *run.Store
	Failures *failure.Store
}

// End ends a run with the state run.StateCancelled or run.StateSuperseded. It first marks the run: from
// then on, workers drop chunks of it that they receive. Then it drops planned and snoozed chunks. A
// worker may finish a chunk that it has already. Republished images become failures again before their
// message is dropped.
func (e *Ender) End(ctx context.Context, r run.Run, state string) (Dropped, error) {
	if err := e.Runs.End(ctx, r.Name, r.ID, state); err != nil {
		return Dropped{}, err
	}
	progress, err := e.Runs.AllProgress(ctx, r.Name, r.ID)
	if err != nil {
		return Dropped{}, err
	}
	left := leftovers{running: map[string]bool{}, dropped: map[string]bool{}}
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	_, err = e.Broker.Changes(ctx, broker.StreamName, subject.OfRun(r.Name, r.ID), 0, func(m *jetstream.RawStreamMsg) error {
		a, err := subject.ParseAddress(m.Subject)
		if err != nil {
			return nil // the message is not a chunk
		}
		due := strings.HasPrefix(m.Subject, subject.Chunk+".")
		chunk, err := message.Decode(m.Data)
		switch {
		case due && progress[a].State == run.Running:
			left.running[base(a)] = true
			return nil
		case err != nil && r.Kind == run.KindRepublish:
			left.unread++ // only a newer worker can turn it into failures again
			return nil
		}
		left.dropped[base(a)] = true
		left.images += chunk.Images()
		if !due {
			group.Go(func() error { return e.drop(working, r, m, chunk) })
		}
		return nil
	})
	if err := errors.Join(err, group.Wait()); err != nil {
		return left.sum(), fmt.Errorf("dropping the rest of run %s: %w", r.ID, err)
	}
	if err := e.Broker.Stream.Purge(ctx, jetstream.WithPurgeSubject(subject.OfRunUnder(subject.Plan, r.Name, r.ID))); err != nil {
		return left.sum(), fmt.Errorf("dropping the plan of run %s: %w", r.ID, err)
	}
	return left.sum(), nil
}

// drop records that a chunk that is not due is dropped. If the message is a remainder, drop deletes it.
// If the remainder has fired meanwhile, a worker drops the chunk. End purges planned chunks all at once.
func (e *Ender) drop(ctx context.Context, r run.Run, m *jetstream.RawStreamMsg, chunk message.Chunk) error {
	a, err := subject.ParseAddress(m.Subject)
	if err != nil {
		return err
	}
	if chunk.Republished || r.Kind == run.KindRepublish {
		for _, repository := range chunk.Repositories {
			if err := e.Failures.Add(ctx, chunk.Name, failure.Of(chunk, repository, repository.Images, failure.ReasonCancelled)); err != nil {
				return err
			}
		}
	}
	images := chunk.Images()
	if err := e.Runs.Record(ctx, a, run.Progress{
		State: run.Dropped, Images: run.Tally{Total: images, Dropped: images}, Updated: time.Now().UTC(),
	}); err != nil {
		return err
	}
	if strings.HasPrefix(m.Subject, subject.Plan+".") {
		return nil
	}
	if err := e.Broker.Delete(ctx, m.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("dropping %s: %w", m.Subject, err)
	}
	return nil
}

// leftovers counts the chunks of a run that is being ended.
type leftovers struct {
	running, dropped map[string]bool // by base
	images, unread   int
}

// base returns a key for the chunk of a message. Its parts and remainders have the same key.
func base(a subject.Address) string { return a.Registry + "." + a.Number() }

func (l *leftovers) sum() Dropped {
	for chunk := range l.running {
		delete(l.dropped, chunk)
	}
	return Dropped{Chunks: len(l.dropped), Images: l.images, UnderWay: len(l.running), Unread: l.unread}
}
