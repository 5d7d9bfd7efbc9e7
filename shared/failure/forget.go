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
	Images     int      // dropped
	Unreadable int      // messages dropped that were no records
	Changed    []string // repositories that were written meanwhile, of which nothing was dropped
}

// Forget drops the failures that unwanted reports true for, each with a line in the log.
// All that goes of a repository goes at once, and only if nobody has written its record
// since it was read: a failure that is newer than the one that unwanted has seen stays.
// Of a record of a newer version, only everything or nothing can be dropped; if it is less,
// it stays, and Forget returns ErrNewer after all others.
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
		case errors.Is(err, jetstream.ErrMsgNotFound): // it went with a record
		case err != nil:
			return done, fmt.Errorf("dropping %s: %w", r.Repository, err)
		default:
			s.log.Warn("dropped what is no failure record", "message", r.Repository, "content", message.Excerpt(f.message.Data))
		}
		done.Unreadable++
	}
	return done, errors.Join(left...)
}

// forget drops images of one repository and returns how many.
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
		return 0, fmt.Errorf("dropping the failures of %s: %w", whole.Repository, err)
	}
	s.overwritten(pages)
	for _, i := range dropped {
		s.log.Warn("dropped a failure", attributes(name, whole, i)...)
	}
	return len(dropped), nil
}

// attributes name a failure in the log.
func attributes(name string, r Record, i Image) []any {
	return []any{"mirror", name, "image", i.Source, "destination", i.Destination, "reason", i.Reason,
		"attempts", i.Attempts, "run", r.Run, "failed_at", r.FailedAt}
}
