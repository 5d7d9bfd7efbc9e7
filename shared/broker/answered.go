package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of nats-server for a stream that has no leader for now.
const (
	codeNotAvailable = 10008 // JSClusterNotAvailErr
	codeNotReady     = 10163 // JSStreamExpectedLastSeqPerSubjectNotReady
)

// NoAnswer reports whether the broker has not answered a request, or has answered that the stream has
// no leader for now. The request may succeed soon, and a message may be stored.
func NoAnswer(err error) bool {
	switch code(err) {
	case codeNotAvailable, codeNotReady:
		return true
	}
	return !Full(err) && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		isUntaken(err))
}

// Answered repeats a request that the broker has not answered in time: a cluster that has
// just started leaves some requests of a whole deployment without an answer. Three times
// requestTimeout outlasts an election.
func Answered(ctx context.Context, request func() error) error {
	const most = 3
	for n := 1; ; n++ {
		if err := request(); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || n == most {
			return err
		}
	}
}

// repeated repeats a request at an interval while its error passes, for as long as most allows.
func repeated[T any](ctx context.Context, interval, most time.Duration, passes func(error) bool, request func() (T, error)) (T, error) {
	for start := time.Now(); ; {
		got, err := request()
		if !passes(err) || time.Since(start) >= most {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, err
		case <-time.After(interval):
		}
	}
}

// respondedInterval is short, because much of what is stored delays a chunk.
const respondedInterval = 250 * time.Millisecond

// responded repeats a request that stores something while no server takes it, for requestTimeout at
// most. This is so while the stream elects a leader, and for a moment after a cluster has created a
// stream. Nothing is stored meanwhile. nats.go repeats a message for half a second, and a batch not at all.
func responded[T any](ctx context.Context, request func() (T, error)) (T, error) {
	return repeated(ctx, respondedInterval, requestTimeout, isUntaken, request)
}

func isUntaken(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

// placeable is how long a stream may take to be placed: each server reports its state every 10 s
// (events.go, statsHBInterval).
const placeable = 15 * time.Second

// placed creates a stream, and tries again for placeable while isOffline. A token for a registry that is new
// is taken from such a stream, and must not fail whenever a server restarts.
func placed[T any](ctx context.Context, create func() (T, error)) (T, error) {
	return repeated(ctx, retryInterval, placeable, isOffline, create)
}

// textOffline is the reason of codeNoPeers if a server of the cluster is away, or has not reported its
// state since it started. There are reasons that do not pass, such as too few servers.
const textOffline = "peer offline"

func isOffline(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeNoPeers && strings.Contains(api.Description, textOffline)
}

// unanswered marks an error as ErrUnreachable if the broker did not answer, or cannot answer for
// now. If something was deleted while it was created, the next attempt creates it, so unanswered
// hides that it does not exist.
func unanswered(err error) error {
	var api *jetstream.APIError
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) || code(err) == codeConsumerGone {
		return fmt.Errorf("%w: %v", ErrUnreachable, err)
	}
	if !errors.As(err, &api) || api.Code == http.StatusServiceUnavailable || isOffline(err) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}
