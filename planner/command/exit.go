package command

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// The exit codes of the contract.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitUnfinished  = 4
	exitToDo        = 4 // of check --exit-code
)

var (
	// errFailed ends a command whose run left failures. It has been said already.
	errFailed = errors.New("some images failed")
	// errUsage is returned for a command line that makes no sense.
	errUsage = errors.New("wrong usage")
	// errUnfinished ends a command that did not see the end of its run.
	errUnfinished = errors.New("unfinished")
	// errToDo ends a check that found something to do and was asked to say so. It has
	// been said already.
	errToDo = errors.New("something to do")
)

// Message is what to say of the error, nothing where it has been said.
func Message(err error) string {
	if err == nil || errors.Is(err, errFailed) || errors.Is(err, errToDo) {
		return ""
	}
	return display.Printable(err.Error())
}

// ExitCode is the code the process ends with for an error.
func ExitCode(err error) int {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return 0
	case is(broker.ErrFull):
		return exitUnreachable
	case is(errFailed):
		return exitFailed
	case is(errToDo):
		return exitToDo
	case is(errUnfinished, context.Canceled):
		return exitUnfinished
	case is(errUsage, config.ErrInvalid, list.ErrBadList, list.ErrBadSource, plan.ErrNameTaken, run.ErrNotFound, skopeo.ErrNotInstalled, policy.ErrUnenforceable):
		return exitUsage
	case is(list.ErrUnreachable, broker.ErrUnreachable, broker.ErrCredentials, broker.ErrNoJetStream, broker.ErrTooOld,
		broker.ErrForeignStream, broker.ErrInUse, context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders,
		nats.ErrConnectionClosed, jetstream.ErrNoStreamResponse):
		return exitUnreachable
	}
	var refused *jetstream.APIError
	if errors.As(err, &refused) {
		return exitUnreachable
	}
	return exitUsage
}
