package broker

import (
	"context"
	"errors"

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
