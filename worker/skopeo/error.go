package skopeo

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/worker/child"
)

// noExitCode is the exit code of a process that a signal ended or that never started.
const noExitCode = -1

// Error is a copy that failed.
type Error struct {
	// Reason is skopeo's last message: one line of at most 1 KiB, without secrets.
	Reason string
	// ExitCode is skopeo's exit code, or -1 if a signal ended skopeo or it never started.
	ExitCode int
	// Side is the side that failed. Registry is the host of that side's repository; it is
	// empty for Neither.
	Side     Side
	Registry string
	// RetryAfter is the wait that a registry requests with a 429, as skopeo logs it: at most a
	// minute; 0 if unknown.
	RetryAfter time.Duration
	// Err is why the process ended: ErrLimited, ErrNotInstalled, child.ErrStalled,
	// budget.ErrLate, a context's error, or an *exec.ExitError.
	Err error
}

// Side is a side of a copy.
type Side int

// The sides.
const (
	Neither Side = iota
	Source
	Destination
)

func (e *Error) Error() string { return e.Reason }
func (e *Error) Unwrap() error { return e.Err }

// logLine matches logrus' text format, which skopeo writes if stderr is not a terminal:
// time="…" level=fatal msg="…". A message of one word has no quotes.
var logLine = regexp.MustCompile(`^time="[^"]*" level=(\w+) msg=("(?:[^"\\]|\\.)*"|\S*)`)

// reason returns the message with the cause of skopeo's failure: the last fatal one. Without a
// fatal message, as after a wrong flag or a crash, reason returns the last line.
func reason(stderr []byte, err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == noExitCode {
		return fmt.Sprintf("skopeo was ended by a %s", exit) // "signal: killed"
	}
	var fatal, last string
	for line := range bytes.Lines(stderr) {
		text := strings.TrimSpace(string(line))
		level, message := parse(text)
		switch {
		case level == "fatal", level == "panic":
			fatal = message
		case strings.HasPrefix(text, "panic: "), strings.HasPrefix(text, "fatal error: "):
			fatal = text // Go's runtime; a trace follows
		case level == "" && text != "":
			last = text
		case level == "error":
			last = message
		}
	}
	for _, found := range []string{fatal, last} {
		if found = redact.Foreign(found); found != "" {
			return found
		}
	}
	return fmt.Sprintf("skopeo failed without a message (%s)", err)
}

// parse returns the level and message of a log line. The level of any other line is empty.
func parse(line string) (level, message string) {
	found := logLine.FindStringSubmatch(line)
	if found == nil {
		return "", ""
	}
	if unquoted, err := strconv.Unquote(found[2]); err == nil {
		return found[1], unquoted
	}
	return found[1], found[2]
}

// atDestination matches the beginnings of messages about the destination. All other messages are
// about the source.
var atDestination = regexp.MustCompile(`(?i)^(?:writing |uploading |initializing destination|` +
	`trying to reuse blob|checking whether a blob|Invalid destination name)`)

// blame sets the side that failed.
func (e *Error) blame(source, destination string) {
	limited := (*limit)(nil)
	switch {
	case errors.Is(e.Err, child.ErrStalled): // stalledAt has set it
	case errors.As(e.Err, &limited):
		e.Side, e.Registry = Source, source
		if limited.host == destination {
			e.Side, e.Registry = Destination, destination
		}
	case e.ExitCode <= 0:
		e.Side, e.Registry = Neither, ""
	case atDestination.MatchString(e.Reason) && !strings.Contains(e.Reason, "happened during read"):
		e.Side, e.Registry = Destination, destination // unless skopeo failed to read the blob that it was writing
	default:
		e.Side, e.Registry = Source, source
	}
}
