package broker

import (
	"context"
	"errors"
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
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse))
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

// respondedPause is the pause between two attempts of responded.
const respondedPause = 250 * time.Millisecond

// responded repeats a request that stores something while no server takes it, for requestTimeout at
// most. This is so while the stream elects a leader, and for a moment after a cluster has created a
// stream. Nothing is stored meanwhile. nats.go repeats a message for half a second, and a batch not at all.
func responded[T any](ctx context.Context, request func() (T, error)) (T, error) {
	for start := time.Now(); ; {
		stored, err := request()
		if !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, jetstream.ErrNoStreamResponse) || time.Since(start) >= requestTimeout {
			return stored, err
		}
		select {
		case <-ctx.Done():
			return stored, err
		case <-time.After(respondedPause):
		}
	}
}
