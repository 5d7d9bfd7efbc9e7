package failure

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

// KeepLeft is how long a failure is kept after a plan has found that its image has left
// the list. It is as long as runs are kept, and long enough to notice that half of a list
// is missing.
const KeepLeft = 30 * 24 * time.Hour

// MarkLeft marks the failures of images that the whole list no longer has, and removes the
// mark from those that it has again. It returns how many it has marked. A failure that was
// marked longer than KeepLeft ago is deleted and logged. A message that no worker could read
// is not an image of a list, and stays as it is.
func (s *Store) MarkLeft(ctx context.Context, name string, has func(reference.Reference) bool, now time.Time) (int, error) {
	all, err := s.all(ctx, name)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, subj := range slices.Sorted(maps.Keys(all.records)) {
		whole, ok := merge(all.records[subj])
		if !ok {
			continue
		}
		n, err := s.markLeft(ctx, name, whole, has, now)
		if err != nil {
			return total, fmt.Errorf("marking the failures of %s: %w", whole.Repository, err)
		}
		total += n
	}
	return total, nil
}

// markLeft marks the failures of one repository. It writes nothing if nothing changes.
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

// mark marks the images of the page, or removes the mark. It returns how many it has
// marked, and the images that it has deleted.
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
