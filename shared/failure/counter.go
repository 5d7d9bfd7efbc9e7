package failure

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// Counter counts the failures that are kept. It asks the broker only for what has
// changed since it was last asked itself. It is not safe for concurrent use.
type Counter struct {
	store   *Store
	images  map[string]Count // by the subject of their page
	foreign int
	last    uint64
	asked   time.Time
}

// Counts is what a Counter has counted.
type Counts struct {
	Images     map[string]Count // that have failed, by mirror name; a name without any may be missing
	Unreadable int              // messages under the failures' subjects that are not records
}

// Count counts failed images.
type Count struct {
	Listed   int // images of the list
	LeftList int // images that have left the list
}

func (c *Count) add(o Count) {
	c.Listed += o.Listed
	c.LeftList += o.LeftList
}

func countOf(r Record) (c Count) {
	for _, i := range r.Images {
		if i.LeftList.IsZero() {
			c.Listed++
		} else {
			c.LeftList++
		}
	}
	return c
}

// Counter returns one that has counted nothing yet.
func (s *Store) Counter() *Counter { return &Counter{store: s} }

// Count returns what is kept now.
func (c *Counter) Count(ctx context.Context) (Counts, error) {
	start := time.Now()
	// A tombstone shows for a while that a record is gone. Nothing shows that an
	// unreadable message is gone.
	if start.Sub(c.asked) > c.store.ttl/2 || c.foreign > 0 {
		c.images, c.foreign, c.last = map[string]Count{}, 0, 0
	}
	var err error
	c.last, err = c.store.b.Changes(ctx, broker.StreamName, subject.Failed+".>", c.last, func(m *jetstream.RawStreamMsg) error {
		if record, _, err := parse(m); err == nil {
			c.images[m.Subject] = countOf(record)
		} else {
			c.foreign++
		}
		return nil
	})
	if err != nil {
		return Counts{}, err
	}
	c.asked = start
	counts := Counts{Images: map[string]Count{}, Unreadable: c.foreign}
	for subj, images := range c.images {
		if name, _, _, err := subject.ParseFailure(subj); err == nil {
			sum := counts.Images[name]
			sum.add(images)
			counts.Images[name] = sum
		}
	}
	return counts, nil
}
