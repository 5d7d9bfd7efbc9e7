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

// DefaultStall is the default of STALL_TIMEOUT: how long a transfer may move no byte.
const DefaultStall = 2 * time.Minute

// ErrStalled is returned if a registry neither sent nor accepted a byte for too long. The
// error is also an ErrUnavailable.
var ErrStalled = errors.New("stalled")

// stalledError is an ErrStalled with the time. It is a net.Error.
type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string {
	return fmt.Sprintf("%v: no byte moved for %s", ErrStalled, e.after)
}
func (e *stalledError) Unwrap() error { return ErrStalled }

// Timeout implements net.Error.
func (*stalledError) Timeout() bool { return true }

// Temporary implements net.Error.
func (*stalledError) Temporary() bool { return true }

// steps is the number of timers into which a time limit is divided. With a single timer, the time
// during which this process is suspended would count.
const steps = 8

// silence cancels a request if the other side is silent for too long. It counts only the time spent
// waiting for that side: if a blob is copied between two registries, only the silent one is to blame.
type silence struct {
	end context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer // nil before the first wait
	limit   time.Duration
	waiting bool
	left    int  // steps
	closed  bool // wait has no effect
}

// wait begins to wait for the other side, at most for the limit.
func (s *silence) wait(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if s.closed {
		return
	}
	s.waiting, s.limit, s.left = true, limit, steps
	if s.timer == nil {
		s.timer = time.AfterFunc(limit/steps, s.step)
		return
	}
	s.timer.Reset(limit / steps)
}

// step counts a step of silence. A timer that expires just when the waiting ends may count for the
// next waiting.
func (s *silence) step() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting {
		return
	}
	if s.left--; s.left > 0 {
		s.timer.Reset(s.limit / steps)
		return
	}
	s.end(&stalledError{s.limit})
}

// rest ends the waiting.
func (s *silence) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// close ends the waiting for good.
func (s *silence) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.closed = true
}

func (s *silence) stop() {
	if s.waiting {
		s.timer.Stop()
		s.waiting = false
	}
}

// stalling cancels requests whose registry is silent while it receives the body, before it
// answers, or while it sends the answer.
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
			limit = t.limit // storing a blob takes time
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
	if response.Body == http.NoBody {
		end(nil)
		return response, nil
	}
	response.Body = &receiving{response.Body, &silence{end: end}, t.limit, ctx}
	return response, nil
}

// stalledOr returns the stalledError that has ended ctx, if there is one, and otherwise err.
func stalledOr(ctx context.Context, err error) error {
	if stalled, ok := errors.AsType[*stalledError](context.Cause(ctx)); ok {
		return stalled
	}
	return err
}

// sending is the body of a request. Between two reads, it waits for the registry to receive the data.
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

// receiving is the body of an answer. It waits for the registry only during a read, because the reader
// may be slow.
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
