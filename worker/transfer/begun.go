package transfer

import (
	"sync"
	"time"

	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// begunFor is how long an upload that failed is kept for the next try: longer than
	// any pause before it. Registries forget uploads, too, after hours or days.
	begunFor = 30 * time.Minute

	// maxBegun bounds how many are kept.
	maxBegun = 256
)

// begun keeps uploads that may go on later.
type begun struct {
	now func() time.Time

	mu      sync.Mutex
	uploads map[place]unfinished
}

// unfinished is an upload with what is known of what was sent.
type unfinished struct {
	upload *registry.Upload
	sum    *sum
	at     time.Time
}

func newBegun() *begun {
	return &begun{now: time.Now, uploads: make(map[place]unfinished)}
}

// keep keeps an upload.
func (b *begun) keep(p place, upload *registry.Upload, s *sum) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, u := range b.uploads {
		if b.now().Sub(u.at) >= begunFor {
			delete(b.uploads, p)
		}
	}
	if len(b.uploads) < maxBegun {
		b.uploads[p] = unfinished{upload, s, b.now()}
	}
}

// take returns the upload that was kept, nil where there is none, and forgets it.
func (b *begun) take(p place) (*registry.Upload, *sum) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.uploads[p]
	delete(b.uploads, p)
	if u.upload == nil || b.now().Sub(u.at) >= begunFor {
		return nil, nil
	}
	return u.upload, u.sum
}
