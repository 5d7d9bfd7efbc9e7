package command

import (
	"errors"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/exit"
)

var (
	// errFailed ends a command whose run left failures, which the command has shown.
	errFailed = exit.Failed.New("some images failed")
	// errUsage is returned for an invalid command line.
	errUsage = exit.Usage.New("wrong usage")
	// errUnfinished ends a command that did not see the end of its run.
	errUnfinished = exit.Unfinished.New("unfinished")
	// errToDo ends check --exit-code if there is something to do, which it has shown.
	errToDo = exit.ToDo.New("something to do")
)

// Message returns the message for an error, or "" if the command has shown it.
func Message(err error) string {
	if err == nil || errors.Is(err, errFailed) || errors.Is(err, errToDo) {
		return ""
	}
	return display.Printable(err.Error())
}
