package transfer

import (
	"context"
	"encoding"
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// errClosed is returned to a request that reads the content after close.
var errClosed = errors.New("the transfer has ended")

// beginning is how many of the first bytes are kept, to recognise a proxy's page.
const beginning = 1 << 10

// content reads a blob from its source. It reconnects after a cut, and returns the last byte only
// if all bytes have the blob's digest.
type content struct {
	transfer *transfer
	ctx      context.Context
	end      func()

	mu      sync.Mutex // a request that has ended may still be reading
	body    *registry.Content
	parts   *parts // read instead of body; nil if one connection is used
	came    pace   // of body or parts
	alone   pace   // of body, before parts were used
	total   int64  // size of the blob; negative if unknown
	discard int64  // bytes to come that are already in the sum
	skip    int64  // bytes to come that the destination already has
	begin   []byte // the first bytes of the blob
	whole   bool   // everything was read, and has the blob's digest
	failed  error  // why reading failed, or why this is not the blob
}

// open requests the blob from the source. The destination has the first bytes of it.
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

// reopen requests the bytes that are not in the sum yet.
func (c *content) reopen() error {
	body, err := c.transfer.blobs.from.Open(c.ctx, c.transfer.source, c.transfer.blob, c.transfer.sum.n)
	if err != nil {
		return err
	}
	c.body, c.came, c.discard = body, pace{}, c.transfer.sum.n-body.From
	c.transfer.decoded = c.transfer.decoded || body.Encoded
	return nil
}

// close ends the requests. Afterwards nothing is read, and the sum is final.
func (c *content) close() {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.body.Close()
	c.closeParts()
	if c.failed == nil {
		c.failed = errClosed
	}
}

// failure returns why the source failed or sent something else; nil if it did not.
func (c *content) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// progress returns how many bytes of the blob were read, and whether the blob is complete.
func (c *content) progress() (n int64, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.transfer.sum.n, c.whole
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
		n, err := c.read(p)
		fresh := p[dropped(&c.discard, n):n]
		c.transfer.sum.add(fresh)
		c.begin = append(c.begin, fresh[:min(len(fresh), beginning-len(c.begin))]...)
		c.judge(err)
		c.adapt()
		next := fresh[dropped(&c.skip, len(fresh)):]
		if len(next) > 0 && c.failed == nil {
			return copy(p, next), nil
		}
	}
}

// dropped returns how many of n bytes to drop, and subtracts them from what is left to drop.
func dropped(left *int64, n int) int {
	drop := int(min(*left, int64(n)))
	*left -= int64(drop)
	return drop
}

// judge checks what was read so far, and handles the error of the last read.
func (c *content) judge(err error) {
	switch {
	case c.transfer.sum.n == c.total, c.total < 0 && errors.Is(err, io.EOF):
		if c.whole = c.transfer.sum.verified(); !c.whole {
			c.failed = c.another()
		}
	case c.total >= 0 && c.transfer.sum.n > c.total:
		c.failed = c.another()
	case errors.Is(err, io.EOF) && c.body.Encoded: // the decoder returns EOF only at the true end
		c.failed = c.another()
	case errors.Is(err, io.EOF):
		c.goOn(c.body.Short())
	case err != nil:
		c.goOn(err)
	}
}

// another returns the error of a source that has sent something else than the blob. If that came in
// parts, the next try uses one connection.
func (c *content) another() error {
	if c.parts != nil {
		c.transfer.blobs.splits.leave(c.host())
	}
	return c.body.Another(c.begin)
}

// goOn requests the rest of the blob after a cut.
func (c *content) goOn(cut error) {
	if !isCut(c.ctx, cut) || !c.transfer.reads.advanced(c.transfer.sum.n, c.transfer.blobs.sizes.advance) {
		c.failed = cut
		return
	}
	_ = c.body.Close()
	if err := c.reopen(); err != nil {
		c.failed = err
	}
}

// sum is the digest of the first n bytes of a blob. It can go back to fewer bytes, for bytes that
// have to be read again.
type sum struct {
	wanted    reference.Digest
	hash      hash.Hash
	n         int64    // bytes in it
	milestone int64    // sizes.milestone
	states    [][]byte // of the hash, after each milestone
}

func newSum(wanted reference.Digest, milestone int64) *sum {
	return &sum{wanted: wanted, hash: wanted.Hash(), milestone: milestone}
}

// add adds the next bytes.
func (s *sum) add(p []byte) {
	for len(p) > 0 {
		n := min(int64(len(p)), s.milestone-s.n%s.milestone)
		_, _ = s.hash.Write(p[:n]) // never returns an error
		s.n += n
		p = p[n:]
		if s.n%s.milestone == 0 {
			s.keep()
		}
	}
}

func (s *sum) keep() {
	state, err := s.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err == nil && int64(len(s.states)) == s.n/s.milestone-1 {
		s.states = append(s.states, state)
	}
}

// back goes back to the last milestone at or before n.
func (s *sum) back(n int64) {
	s.states = s.states[:min(int64(len(s.states)), n/s.milestone)]
	s.hash.Reset()
	for len(s.states) > 0 {
		last := s.states[len(s.states)-1]
		if s.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(last) == nil {
			break
		}
		s.states = s.states[:len(s.states)-1]
		s.hash.Reset()
	}
	s.n = int64(len(s.states)) * s.milestone
}

// verified reports whether the bytes have the blob's digest.
func (s *sum) verified() bool { return s.wanted.IsSum(s.hash) }
