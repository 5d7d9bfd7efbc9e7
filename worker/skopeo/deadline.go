package skopeo

import (
	"context"
	"errors"
	"time"
)

// ErrLate says that a copy did not ask for its manifest in time. Nothing is wrong with
// the image.
var ErrLate = errors.New("did not ask for the manifest in time")

type deadlineKey struct{}

// WithPullDeadline gives copies under the context a time by which they must have asked
// the source for the manifest. What they do after that may take longer.
func WithPullDeadline(ctx context.Context, deadline time.Time) context.Context {
	return context.WithValue(ctx, deadlineKey{}, deadline)
}

// pullTimer calls late at the context's deadline, if there is one, and at once where it
// has passed: this process was suspended. The function that is returned stops it.
func pullTimer(ctx context.Context, late func()) (stop func()) {
	deadline, ok := ctx.Value(deadlineKey{}).(time.Time)
	if !ok {
		return func() {}
	}
	if !time.Now().Before(deadline) {
		late()
	}
	timer := time.AfterFunc(time.Until(deadline), late)
	return func() { timer.Stop() }
}
