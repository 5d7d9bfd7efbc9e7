package transfer

import (
	"context"
	"io"
	"sync"
	"time"
)

const (
	// partsAtOnce is how many parts of a blob are requested at once, each over a connection.
	partsAtOnce = 4

	// inParts is how many blobs may come in parts at once. They take up to 64 MiB of memory.
	inParts = 2

	// slowPart is how long a part over one connection must take for several connections to be tried.
	// Window size, packet loss and the registry may limit the rate of a connection.
	// If one connection is faster than this (16 MiB/s), more are not worth their requests.
	slowPart = 500 * time.Millisecond

	// gain is how many times as fast as one connection several must be to be kept.
	gain = 1.5

	// aloneFor is how long one connection is used for each blob of a source that is not faster over
	// several.
	aloneFor = time.Hour

	// blockSize is how many bytes of a part are read at once.
	blockSize = 64 << 10
)

// pace is how fast a source sends.
type pace struct {
	bytes  int64
	waited time.Duration // for the source, not for the destination
}

// of returns how long a number of bytes takes.
func (p pace) of(bytes int64) time.Duration {
	return time.Duration(float64(p.waited) / float64(max(p.bytes, 1)) * float64(bytes))
}

// read reads from the source, over one connection or several, and measures its pace.
func (c *content) read(p []byte) (n int, err error) {
	began := time.Now()
	defer func() {
		c.came.bytes += int64(n)
		c.came.waited += time.Since(began)
	}()
	if c.parts == nil {
		return c.body.Read(p)
	}
	if n, err = c.parts.Read(p); err != nil && c.ctx.Err() == nil {
		err = c.narrow()
	}
	return n, err
}

// adapt switches to several connections if one is slow, and back if several are not faster.
func (c *content) adapt() {
	of, size := c.transfer.blobs.splits, c.transfer.blobs.sizes.part
	left := c.total - c.transfer.sum.n
	switch {
	case c.failed != nil, c.whole, c.body.Encoded, c.discard > 0, left < 2*size:
	case c.parts == nil && c.came.bytes >= size && c.came.of(size) >= of.slow && of.take(c.host()):
		c.transfer.pieces = true
		_ = c.body.Close()
		c.alone, c.came = c.came, pace{}
		c.parts = newParts(c.ctx, size, c.transfer.sum.n, c.total, c.openPart)
	case c.parts != nil && c.came.bytes >= 2*partsAtOnce*size && !isFaster(c.alone, c.came):
		if err := c.narrow(); err != nil {
			c.goOn(err)
		}
	}
}

// narrow goes back to one connection, for this blob and for all blobs of the source during aloneFor.
func (c *content) narrow() error {
	c.transfer.blobs.splits.leave(c.host())
	c.closeParts()
	return c.reopen()
}

func (c *content) closeParts() {
	if c.parts != nil {
		c.parts.close()
		c.parts = nil
		c.transfer.blobs.splits.give()
	}
}

func (c *content) host() string { return c.transfer.source.Registry() }

// openPart requests a part.
func (c *content) openPart(ctx context.Context, from, before int64) (io.ReadCloser, error) {
	t := c.transfer
	return t.blobs.from.OpenPart(ctx, t.source, t.blob.Digest, from, before)
}

// splits decides which blobs may come in parts.
type splits struct {
	slow  time.Duration // slowPart, except in tests
	slots chan struct{}

	mu    sync.Mutex
	alone map[string]time.Time // by registry: until when one connection is used for each blob
}

func newSplits() *splits {
	return &splits{slow: slowPart, slots: make(chan struct{}, inParts), alone: make(map[string]time.Time)}
}

// take reports whether a blob of a registry may come in parts. If true, the caller must call give.
func (s *splits) take(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.alone[host]) {
		return false
	}
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *splits) give() { <-s.slots }

// leave records that a registry is not faster over several connections.
func (s *splits) leave(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alone[host] = time.Now().Add(aloneFor)
}

// isFaster reports whether several connections are fast enough, compared with one, to be kept.
func isFaster(one, several pace) bool {
	return float64(one.of(blockSize)) >= gain*float64(several.of(blockSize))
}

// parts requests several parts of a blob at once, each over a connection, and reads them in order.
type parts struct {
	ctx  context.Context
	end  context.CancelFunc
	open func(ctx context.Context, from, before int64) (io.ReadCloser, error)

	size        int64   // of a part
	next, total int64   // offsets of the next part and of the end
	under       []*part // parts under way, in order
	block       []byte  // received, but not read yet
	running     sync.WaitGroup
}

// part is a part that is under way.
type part struct {
	blocks chan []byte // has room for the whole part
	err    error       // why the part is incomplete; set before blocks is closed
}

func newParts(ctx context.Context, size, from, total int64, open func(context.Context, int64, int64) (io.ReadCloser, error)) *parts {
	p := &parts{open: open, size: size, next: from, total: total}
	p.ctx, p.end = context.WithCancel(ctx)
	for range partsAtOnce {
		p.request()
	}
	return p
}

// request requests the next part, if any is left.
func (p *parts) request() {
	from, before := p.next, min(p.next+p.size, p.total)
	if from == before {
		return
	}
	p.next = before
	part := &part{blocks: make(chan []byte, (p.size+blockSize-1)/blockSize)}
	p.under = append(p.under, part)
	p.running.Go(func() {
		defer close(part.blocks)
		part.err = p.fetch(part, from, before)
	})
}

func (p *parts) fetch(part *part, from, before int64) error {
	body, err := p.open(p.ctx, from, before)
	if err != nil {
		return err
	}
	defer body.Close()
	for from < before {
		block := make([]byte, min(blockSize, before-from))
		n, err := io.ReadFull(body, block)
		if err != nil {
			return err
		}
		part.blocks <- block
		from += int64(n)
	}
	return nil
}

// Read implements io.Reader.
func (p *parts) Read(to []byte) (int, error) {
	for len(p.block) == 0 {
		if len(p.under) == 0 {
			return 0, io.EOF
		}
		first := p.under[0]
		select {
		case block, more := <-first.blocks:
			switch {
			case more:
				p.block = block
			case first.err != nil:
				return 0, first.err
			default:
				p.under = p.under[1:]
				p.request()
			}
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	n := copy(to, p.block)
	p.block = p.block[n:]
	return n, nil
}

// close ends all requests.
func (p *parts) close() {
	p.end()
	p.running.Wait()
}
