package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// DefaultStall is how long a registry may be silent in the middle of a blob where nobody
// says otherwise. It is STALL_TIMEOUT's default.
const DefaultStall = 2 * time.Minute

// ErrStalled says that a registry neither sent nor took a byte for too long. It is a
// net.Error, and so ErrUnavailable as well.
var ErrStalled = errors.New("stalled")

// stalledError is an ErrStalled with the time.
type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string {
	return fmt.Sprintf("%v: no byte moved for %s", ErrStalled, e.after)
}
func (e *stalledError) Unwrap() error { return ErrStalled }

// Timeout implements net.Error.
func (*stalledError) Timeout() bool { return true }

// Temporary implements net.Error.
func (*stalledError) Temporary() bool { return true }

// steps are how many times is looked before a registry has been silent for long enough.
// Time is counted in steps: a clock goes on while this process is suspended.
const steps = 8

// silence ends a request when nothing has happened for too long while it was waiting for
// the other side. Waiting for anybody else does not count: of two registries that a blob
// goes between, only the one that is silent is to blame.
type silence struct {
	end context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer // nil: nothing is waited for
	left    int         // steps
	through bool        // nothing is waited for any more
}

// wait begins to wait for the other side, for so long at most.
func (s *silence) wait(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if s.through {
		return
	}
	s.left = steps
	var timer *time.Timer
	timer = time.AfterFunc(limit/steps, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.timer != timer {
			return // it has just ended
		}
		if s.left--; s.left > 0 {
			timer.Reset(limit / steps)
			return
		}
		s.end(&stalledError{limit})
	})
	s.timer = timer
}

// rest ends the waiting.
func (s *silence) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// close ends it for good.
func (s *silence) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.through = true
}

func (s *silence) stop() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// stalling ends requests whose registry is silent: while it takes the body, before it
// answers, and while it sends the answer.
type stalling struct {
	inner http.RoundTripper
	limit time.Duration
}

func (t *stalling) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, end := context.WithCancelCause(request.Context())
	s := &silence{end: end}
	limit := min(t.limit, headerTimeout)
	watched := request.WithContext(ctx)
	if request.Body != nil && request.Body != http.NoBody {
		if request.GetBody == nil {
			limit = t.limit // a blob, which takes time to be stored
		}
		watched.Body = &sending{request.Body, s, limit}
	}
	s.wait(limit)
	response, err := t.inner.RoundTrip(watched)
	s.close()
	if err != nil {
		end(nil)
		return nil, stalledOr(ctx, err)
	}
	response.Body = &receiving{response.Body, &silence{end: end}, t.limit, ctx}
	return response, nil
}

// stalledOr returns why ctx has ended, where that is a silence, and otherwise err.
func stalledOr(ctx context.Context, err error) error {
	if stalled := (*stalledError)(nil); errors.As(context.Cause(ctx), &stalled) {
		return stalled
	}
	return err
}

// sending is the body of a request. Between two reads the registry takes what was read.
type sending struct {
	io.ReadCloser
	silence *silence
	limit   time.Duration
}

func (b *sending) Read(p []byte) (int, error) {
	b.silence.rest()
	defer b.silence.wait(b.limit)
	return b.ReadCloser.Read(p)
}

// receiving is the body of an answer. Between two reads nothing is expected of the
// registry: whoever reads may be slow.
type receiving struct {
	io.ReadCloser
	silence *silence
	limit   time.Duration
	ctx     context.Context
}

func (b *receiving) Read(p []byte) (int, error) {
	b.silence.wait(b.limit)
	defer b.silence.rest()
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = stalledOr(b.ctx, err)
	}
	return n, err
}

func (b *receiving) Close() error {
	b.silence.end(nil)
	return b.ReadCloser.Close()
}
