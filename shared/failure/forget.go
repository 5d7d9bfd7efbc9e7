package failure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
)

// Forgotten is the outcome of Forget.
type Forgotten struct {
	Images     int      // deleted
	Unreadable int      // unreadable messages deleted
	Changed    []string // repositories whose record changed meanwhile; it was left as it is
}

// Forget deletes the failures for which unwanted returns true, and logs each. Those of one
// repository are deleted in one atomic write, and only if the record has not changed since
// it was read: a failure that a worker has recorded meanwhile is never deleted. A record of
// a newer version is deleted as a whole or not at all; if unwanted wants only a part of it,
// Forget leaves it and returns ErrNewer when it is done with all others.
func (s *Store) Forget(ctx context.Context, name string, unwanted func(Record, Image) bool) (Forgotten, error) {
	var done Forgotten
	all, err := s.all(ctx, name)
	if err != nil {
		return done, err
	}
	var left []error
	for _, subj := range slices.Sorted(maps.Keys(all.records)) {
		whole, ok := merge(all.records[subj])
		if !ok {
			continue
		}
		n, err := s.forget(ctx, name, whole, all.records[subj], unwanted)
		done.Images += n
		switch {
		case errors.Is(err, broker.ErrConflict):
			done.Changed = append(done.Changed, whole.Repository)
		case errors.Is(err, ErrNewer):
			left = append(left, err)
		case err != nil:
			return done, err
		}
	}
	for _, f := range all.foreign {
		r := f.record()
		if !unwanted(r, r.Images[0]) {
			continue
		}
		switch err := s.b.Delete(ctx, f.message.Sequence); {
		case errors.Is(err, jetstream.ErrMsgNotFound): // a record on its subject was just deleted
		case err != nil:
			return done, fmt.Errorf("deleting %s: %w", r.Repository, err)
		default:
			s.log.Warn("deleted a message that is not a failure record", "message", r.Repository, "content", message.Excerpt(f.message.Data))
		}
		done.Unreadable++
	}
	return done, errors.Join(left...)
}

// forget deletes images of one repository and returns how many.
func (s *Store) forget(ctx context.Context, name string, whole Record, pages []*page, unwanted func(Record, Image) bool) (int, error) {
	var dropped []Image
	var msgs []*nats.Msg
	for _, p := range pages {
		before := len(p.record.Images)
		n := p.remove(func(i Image) bool {
			gone := unwanted(whole, i)
			if gone {
				dropped = append(dropped, i)
			}
			return gone
		})
		if n == 0 {
			continue
		}
		if p.newer && n < before {
			return 0, fmt.Errorf("%s: %w", whole.Repository, ErrNewer)
		}
		m, err := s.message(name, whole.Registry, whole.Repository, p)
		if err != nil {
			return 0, err
		}
		msgs = append(msgs, m)
	}
	if len(msgs) == 0 {
		return 0, nil
	}
	if err := s.write(ctx, msgs); err != nil {
		return 0, fmt.Errorf("deleting the failures of %s: %w", whole.Repository, err)
	}
	s.overwritten(pages)
	for _, i := range dropped {
		s.log.Warn("deleted a failure", attributes(name, whole, i)...)
	}
	return len(dropped), nil
}

// attributes name a failure in the log.
func attributes(name string, r Record, i Image) []any {
	return []any{"mirror", name, "image", i.Source, "destination", i.Destination, "reason", i.Reason,
		"attempts", i.Attempts, "run", r.Run, "failed_at", r.FailedAt}
}
