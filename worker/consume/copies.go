package consume

import (
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/meter"
)

// copiesInterval is how often is told what the copies under way have moved, and the time
// that their rates are of.
const copiesInterval = 5 * time.Second

// copies are the images under way.
type copies struct {
	mu  sync.Mutex
	all []*copying
}

// copying is one of them. Its rate is that of the bytes between two looks.
type copying struct {
	run.Copy
	moved  *meter.Meter
	before int64 // bytes at the last look
	at     time.Time
}

// begin notes a copy, until it has ended.
func (c *copies) begin(begun run.Copy, moved *meter.Meter) (ended func()) {
	one := &copying{Copy: begun, moved: moved, at: begun.Since}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, one)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = slices.DeleteFunc(c.all, func(other *copying) bool { return other == one })
	}
}

func (c *copies) any() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all) > 0
}

// list is how they stand now.
func (c *copies) list(now time.Time) []run.Copy {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []run.Copy
	for _, one := range c.all {
		one.Bytes = one.moved.Bytes()
		if passed := now.Sub(one.at); passed >= copiesInterval {
			one.Rate = int64(float64(one.Bytes-one.before) / passed.Seconds())
			one.before, one.at = one.Bytes, now
		}
		list = append(list, one.Copy)
	}
	return list
}
