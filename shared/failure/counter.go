package failure

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// Counter counts the failures that are kept. It asks the broker only for what has
// changed since it was last asked itself. It is not safe for concurrent use.
type Counter struct {
	store  *Store
	images map[string]int // by the subject of their page
	last   uint64
	asked  time.Time
}

// Counter returns one that has counted nothing yet.
func (s *Store) Counter() *Counter { return &Counter{store: s} }

// Count returns how many images each mirror name has that failed. A name without any
// may be missing.
func (c *Counter) Count(ctx context.Context) (map[string]int, error) {
	start := time.Now()
	// A record that is gone is told by its tombstone, for as long as that stays.
	if start.Sub(c.asked) > c.store.ttl/2 {
		c.images, c.last = map[string]int{}, 0
	}
	var err error
	c.last, err = c.store.b.Changes(ctx, broker.StreamName, subject.Failed+".>", c.last, func(m *jetstream.RawStreamMsg) error {
		// What cannot be read, planner failed tells. It must not hide the others.
		if p, err := parse(m.Subject, m.Sequence, m.Header, m.Data); err == nil {
			c.images[m.Subject] = len(p.record.Images)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.asked = start
	byName := map[string]int{}
	for subj, images := range c.images {
		name, _, _ := strings.Cut(strings.TrimPrefix(subj, subject.Failed+"."), ".")
		byName[name] += images
	}
	return byName, nil
}
