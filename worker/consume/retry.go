package consume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/worker/chunk"
)

const (
	retryInterval = time.Second
	// optionalTries is how often an optional operation is tried while the broker is
	// connected. After a restart, a broker needs some seconds until it has opened its streams.
	optionalTries = 10
)

// retry repeats an operation at the broker until the broker accepts or refuses it, or until ctx
// ends. So no work is lost when a broker restarts.
func retry(ctx context.Context, log *slog.Logger, operation func(context.Context) error) error {
	for {
		err := operation(ctx)
		if err == nil || refused(err) || ctx.Err() != nil {
			return err
		}
		if broker.Full(err) {
			log.Error("the broker's disk is full, trying again", "error", err)
		} else {
			log.Warn("the broker does not answer, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryInterval):
		}
	}
}

// retried is retry for an operation that returns a value.
func retried[T any](ctx context.Context, log *slog.Logger, operation func(context.Context) (T, error)) (value T, err error) {
	err = retry(ctx, log, func(ctx context.Context) error {
		value, err = operation(ctx)
		return err
	})
	return value, err
}

// errGivenUp ends the retries of an optional operation.
var errGivenUp = errors.New("gave up")

// refused reports whether a retry cannot help.
func refused(err error) bool {
	var answer *jetstream.APIError
	return errors.Is(err, broker.ErrConflict) || errors.Is(err, errGivenUp) ||
		errors.Is(err, nats.ErrConnectionClosed) || // this process has closed it; a lost connection is reconnected
		errors.As(err, &answer) && answer.Code < http.StatusInternalServerError && !broker.Full(err)
}

// optional returns an operation that ends its retries if it keeps failing while the broker is
// connected, because its bucket or consumer has been deleted.
func optional(conn *nats.Conn, operation func(context.Context) error) func(context.Context) error {
	tries := 0
	return func(ctx context.Context) error {
		err := operation(ctx)
		if err == nil || !conn.IsConnected() {
			return err
		}
		if tries++; tries == optionalTries {
			return fmt.Errorf("%w: %w", errGivenUp, err)
		}
		return err
	}
}

// failures implements chunk.Failures with retries.
type failures struct {
	store *failure.Store
	log   *slog.Logger
}

// OpenFailures returns the failure records of a broker. Their methods retry until the broker
// answers.
func OpenFailures(b *broker.Broker, log *slog.Logger) chunk.Failures {
	return failures{failure.NewStore(b, log), log}
}

func (f failures) Add(ctx context.Context, name string, r failure.Record) error {
	return retry(ctx, f.log, func(ctx context.Context) error { return f.store.Add(ctx, name, r) })
}

func (f failures) Any(ctx context.Context, name, registry string) (bool, error) {
	return retried(ctx, f.log, func(ctx context.Context) (bool, error) { return f.store.Any(ctx, name, registry) })
}

func (f failures) Subtract(ctx context.Context, name, registry, repository string, mirrored func(string) bool) (int, error) {
	return retried(ctx, f.log, func(ctx context.Context) (int, error) {
		return f.store.Subtract(ctx, name, registry, repository, mirrored)
	})
}
