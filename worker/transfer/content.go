package transfer

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/osism/skopeo-worker/worker/registry"
)

// errClosed is what a request reads that goes on after its end.
var errClosed = errors.New("the transfer has ended")

// beginning is how much of a page is looked at.
const beginning = 1 << 10

// content is a blob on its way from its source. It goes on after a cut, and hands on its
// last byte only if all of them have the digest.
type content struct {
	*transfer
	ctx context.Context
	end func()

	mu      sync.Mutex // a request that has ended may still be reading
	body    *registry.Content
	total   int64  // of the blob; negative: it is not known
	discard int64  // bytes to come that are in the sum already
	skip    int64  // bytes to come that the destination has already
	begin   []byte // of the blob
	whole   bool   // all of it came, and it is the blob
	failed  error  // why it is not the blob, or could not be read
}

// open asks the source for the blob, of which the destination has the beginning.
func (t *transfer) open(ctx context.Context, has int64) (*content, error) {
	t.sum.back(has)
	c := &content{transfer: t, skip: has - t.sum.n}
	c.ctx, c.end = context.WithCancel(ctx)
	if err := c.reopen(); err != nil {
		c.end()
		return nil, err
	}
	if c.total = c.body.Size; c.total < 0 && t.blob.Size > 0 {
		c.total = t.blob.Size
	}
	if c.total == 0 {
		_, _ = c.Read(make([]byte, 1)) // a request without a body reads nothing
	}
	return c, nil
}

// reopen asks the source for what is not in the sum yet.
func (c *content) reopen() (err error) {
	if c.body, err = c.from.Open(c.ctx, c.source, c.blob.Digest, c.sum.n); err == nil {
		c.discard = c.sum.n - c.body.From
	}
	return err
}

// close ends it. Afterwards nobody reads, and the sum is that of what was read.
func (c *content) close() {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.body.Close()
	if c.failed == nil {
		c.failed = errClosed
	}
}

// failure is why the content is not the blob, or could not be read; nil where that is
// not known.
func (c *content) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// came returns how much of the blob was read, and whether that is all of it.
func (c *content) came() (n int64, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sum.n, c.whole
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.failed != nil:
			return 0, c.failed
		case c.whole:
			return 0, io.EOF
		}
		n, err := c.body.Read(p)
		fresh := p[dropped(&c.discard, n):n]
		c.sum.add(fresh)
		c.begin = append(c.begin, fresh[:min(len(fresh), beginning-len(c.begin))]...)
		c.judge(err)
		next := fresh[dropped(&c.skip, len(fresh)):]
		if len(next) > 0 && c.failed == nil {
			return copy(p, next), nil
		}
	}
}

// dropped takes as much of n as is left to be dropped.
func dropped(left *int64, n int) int {
	drop := int(min(*left, int64(n)))
	*left -= int64(drop)
	return drop
}

// judge looks at what was read by now, and at the error that came with it.
func (c *content) judge(err error) {
	switch {
	case c.sum.n == c.total, c.total < 0 && err == io.EOF:
		if c.whole = c.sum.verified(); !c.whole {
			c.failed = c.body.Another(c.begin)
		}
	case c.total >= 0 && c.sum.n > c.total:
		c.failed = c.body.Another(c.begin)
	case err == io.EOF:
		c.goOn(c.body.Short())
	case err != nil:
		c.goOn(err)
	}
}

// goOn asks the source for the rest after a cut.
func (c *content) goOn(cut error) {
	if !isCut(c.ctx, cut) || !c.reads.advanced(c.sum.n) {
		c.failed = cut
		return
	}
	_ = c.body.Close()
	if err := c.reopen(); err != nil {
		c.failed = err
	}
}
