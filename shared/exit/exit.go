// Package exit has the exit codes of the planner and the worker. docs/operations.md describes them.
package exit

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Kind is a kind of error with an exit code.
type Kind int

// The kinds of errors. If an error is of several kinds, the first one in this list counts.
const (
	Full        Kind = iota // the broker stores nothing, because its disk is full
	Failed                  // some images failed, or could not be checked
	ToDo                    // check --exit-code found something to do
	Unfinished              // the command ends before its run is over
	Usage                   // wrong usage or bad input, which the user must change
	Unreachable             // the list or the broker cannot be reached or used
)

var codes = map[Kind]int{Full: 3, Failed: 1, ToDo: 4, Unfinished: 4, Usage: 2, Unreachable: 3}

// New returns a new error of the kind.
func (k Kind) New(text string) error { return &kindError{k, text} }

type kindError struct {
	kind Kind
	text string
}

func (e *kindError) Error() string { return e.text }

func (e *kindError) Is(target error) bool { return target == of(e.kind) }

// of is the target with which errors.Is finds errors of a kind.
type of Kind

func (of) Error() string { return "of a kind" }

// others are the kinds of errors of other modules.
var others = map[error]Kind{
	context.Canceled:              Unfinished,
	context.DeadlineExceeded:      Unreachable,
	nats.ErrTimeout:               Unreachable,
	nats.ErrNoResponders:          Unreachable,
	nats.ErrConnectionClosed:      Unreachable,
	jetstream.ErrNoStreamResponse: Unreachable,
}

// Code returns the exit code for an error: 0 if it is nil, and that of Usage if it has no kind.
func Code(err error) int {
	if err == nil {
		return 0
	}
	kinds := map[Kind]bool{}
	for k := range codes {
		kinds[k] = errors.Is(err, of(k))
	}
	for other, kind := range others {
		kinds[kind] = kinds[kind] || errors.Is(err, other)
	}
	kinds[Unreachable] = kinds[Unreachable] || errors.As(err, new(*jetstream.APIError))
	for k := Full; k <= Unreachable; k++ {
		if kinds[k] {
			return codes[k]
		}
	}
	return codes[Usage]
}
