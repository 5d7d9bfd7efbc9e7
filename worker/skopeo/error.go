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

// noExitCode is the exit code of a process that did not exit by itself.
const noExitCode = -1

// Error is a copy that failed.
type Error struct {
	// Reason is skopeo's own last message: one line of at most 1 KiB, without
	// secrets.
	Reason string
	// ExitCode is skopeo's; -1 where a signal ended it or it never started.
	ExitCode int
	// Side is where the failure came from, and Registry the host of that side, as it
	// is in the repository: empty where it came from neither.
	Side     Side
	Registry string
	// RetryAfter is what a registry that answered 429 asks to wait, as far as
	// skopeo told: at most a minute; 0 where unknown.
	RetryAfter time.Duration
	// Err is what ended the process: ErrLimited, ErrNotInstalled, a context's
	// error, an exit or a signal.
	Err error
}

// Side is one of the registries of a copy.
type Side int

// The sides.
const (
	Neither Side = iota
	Source
	Destination
)

func (e *Error) Error() string { return e.Reason }
func (e *Error) Unwrap() error { return e.Err }

// logLine is a line of logrus' text format, as skopeo writes it where stderr is
// no terminal: time="…" level=fatal msg="…". A message of one word has no quotes.
var logLine = regexp.MustCompile(`^time="[^"]*" level=(\w+) msg=("(?:[^"\\]|\\.)*"|\S*)`)

// reason finds the message that says why skopeo failed, the last fatal one.
// Warnings come before it and are about something else. Where there is none,
// such as for a wrong flag or a crash, it is the last line.
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
	return fmt.Sprintf("skopeo failed and did not say why (%s)", err)
}

// parse returns a log line's level and message; the level is empty where it is
// no log line.
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

// atDestination are the beginnings of messages about the destination; all
// others are about the source.
var atDestination = regexp.MustCompile(`(?i)^(?:writing |uploading |initializing destination|` +
	`trying to reuse blob|checking whether a blob|Invalid destination name)`)

// blame says which of the registries the failure came from.
func (e *Error) blame(source, destination string) {
	limited := (*limit)(nil)
	switch {
	case errors.Is(e.Err, child.ErrStalled): // it is said already
	case errors.As(e.Err, &limited):
		e.Side, e.Registry = Source, source
		if limited.host == destination {
			e.Side, e.Registry = Destination, destination
		}
	case e.ExitCode <= 0:
		e.Side, e.Registry = Neither, ""
	case atDestination.MatchString(e.Reason) && !strings.Contains(e.Reason, "happened during read"):
		e.Side, e.Registry = Destination, destination // reading is from the source, even while writing
	default:
		e.Side, e.Registry = Source, source
	}
}
