package failure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
)

// Forgotten is the outcome of Forget.
type Forgotten struct {
	Images     int      // deleted
	Unreadable int      // unreadable messages deleted
	Changed    []string // repositories whose record changed meanwhile, so that it was not written
}

// Forget deletes the failures for which unwanted returns true, and logs each. It deletes those of a
// repository with one atomic write, which fails if a worker has recorded another failure meanwhile.
// It cannot delete a part of a record of a newer version; it leaves such a record, and returns an
// error for it after it has handled all others.
func (s *Store) Forget(ctx context.Context, name string, unwanted func(Record, Image) bool) (Forgotten, error) {
	var done Forgotten
	all, err := s.all(ctx, name)
	if err != nil {
		return done, err
	}
	var left []error
	for whole, pages := range all.wholes() {
		n, err := s.forget(ctx, name, whole, pages, unwanted)
		done.Images += n
		switch {
		case errors.Is(err, broker.ErrConflict):
			done.Changed = append(done.Changed, whole.Repository)
		case errors.Is(err, errNewer):
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
			return 0, fmt.Errorf("%s: %w", whole.Repository, errNewer)
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

// attributes returns the attributes of a failure for the log.
func attributes(name string, r Record, i Image) []any {
	return []any{"mirror", name, "image", i.Source, "destination", i.Destination, "reason", i.Reason,
		"attempts", i.Attempts, "run", r.Run, "failed_at", r.FailedAt}
}

// KeepLeft is how long a failure is kept after a plan has found that its image has left the list. It
// is as long as runs are kept, so that operators have time to notice a list that lacks entries.
const KeepLeft = 30 * 24 * time.Hour

// MarkLeft marks the failures of images that the whole list no longer has, and returns how many it
// has marked. It removes the mark from failures of images that the list has again, and deletes and
// logs failures that were marked longer than KeepLeft ago. Unreadable messages stay as they are.
func (s *Store) MarkLeft(ctx context.Context, name string, has func(reference.Reference) bool, now time.Time) (int, error) {
	all, err := s.all(ctx, name)
	if err != nil {
		return 0, err
	}
	total := 0
	for whole := range all.wholes() {
		n, err := s.markLeft(ctx, name, whole, has, now)
		if err != nil {
			return total, fmt.Errorf("marking the failures of %s: %w", whole.Repository, err)
		}
		total += n
	}
	return total, nil
}

// markLeft is MarkLeft for one repository. It writes nothing if nothing changes.
func (s *Store) markLeft(ctx context.Context, name string, whole Record, has func(reference.Reference) bool, now time.Time) (int, error) {
	var marked int
	var dropped []Image
	err := s.update(ctx, name, whole.Registry, whole.Repository, func(pages []*page) ([]*page, error) {
		marked, dropped = 0, nil
		for _, p := range pages {
			n, gone := p.mark(has, now)
			marked, dropped = marked+n, append(dropped, gone...)
		}
		return pages, nil
	})
	if err != nil {
		return 0, err
	}
	for _, i := range dropped {
		s.log.Warn("deleted a failure that left the list long ago", attributes(name, whole, i)...)
	}
	return marked, nil
}

// mark is MarkLeft for one page. It returns how many images it has marked, and those that it has
// deleted.
func (p *page) mark(has func(reference.Reference) bool, now time.Time) (marked int, dropped []Image) {
	if p.newer || p.record.Message != nil {
		return 0, nil
	}
	for n := range p.record.Images {
		i := &p.record.Images[n]
		ref, err := reference.ParseCanonical(i.Source)
		if err != nil {
			continue
		}
		switch listed := has(ref); {
		case listed && !i.LeftList.IsZero():
			i.LeftList, p.changed = time.Time{}, true
		case !listed && i.LeftList.IsZero():
			i.LeftList, p.changed = now.UTC().Truncate(time.Second), true
			marked++
		}
	}
	p.remove(func(i Image) bool {
		old := !i.LeftList.IsZero() && now.Sub(i.LeftList) > KeepLeft
		if old {
			dropped = append(dropped, i)
		}
		return old
	})
	return marked, dropped
}
