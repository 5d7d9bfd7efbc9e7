package skopeo

import (
	"sync"
	"time"
)

// patience is how long a process that does nothing keeps others waiting for the blobs that it has
// claimed. A process that was answered that a blob is missing requests it from the source at once.
const patience = 10 * time.Second

// brief is patience while the process waits for another one and has several images: the other one may
// wait for a blob that was claimed ahead for a later image.
const brief = time.Second

// claims are the blobs that a process is the one to copy. Processes that need the same blob wait until
// it is released: at the end of its upload or of the process, or if the process has had no request
// under way for patience. Looking for another blob is no such request, so that processes which wait for
// each other's blobs go on.
type claims struct {
	mu       sync.Mutex
	releases map[place]func()
	requests int         // that are under way
	looks    int         // requests that look for a blob, if there are several images
	idle     *time.Timer // nil: a request is under way, or nothing is claimed
	ended    bool
}

// has reports whether a blob is claimed.
func (c *claims) has(at place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.releases[at] != nil
}

// add claims a blob.
func (c *claims) add(at place, release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.releases[at] != nil {
		release()
		return
	}
	if c.releases == nil {
		c.releases = map[place]func(){}
	}
	c.releases[at] = release
	c.rest()
}

// release releases a blob if it is claimed.
func (c *claims) release(at place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if release := c.releases[at]; release != nil {
		delete(c.releases, at)
		release()
	}
}

// work notes that a request is under way until end is called.
func (c *claims) work() (end func()) {
	return c.count(&c.requests)
}

// look notes that the process looks for a blob until end is called, and that it has several images.
func (c *claims) look() (end func()) { return c.count(&c.looks) }

func (c *claims) count(what *int) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what++
	c.rest()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		*what--
		c.rest()
	}
}

// rest starts the time for which the process may do nothing, if it begins now.
func (c *claims) rest() {
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
	if c.requests > 0 || len(c.releases) == 0 {
		return
	}
	pause := patience
	if c.looks > 0 {
		pause = brief
	}
	var timer *time.Timer
	timer = time.AfterFunc(pause, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.idle == timer {
			c.releaseAll()
		}
	})
	c.idle = timer
}

// end releases all blobs, and each that is claimed later at once.
func (c *claims) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.releaseAll()
	c.rest()
}

func (c *claims) releaseAll() {
	for at, release := range c.releases {
		delete(c.releases, at)
		release()
	}
}
