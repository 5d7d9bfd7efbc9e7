package skopeo

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"time"
)

const (
	// maxStderr is how much of skopeo's last words is kept, in bytes: the
	// reason is in its last line.
	maxStderr = 64 << 10

	// maxLine is where a line is cut that is looked at for a limit.
	maxLine = 8 << 10

	// ownBackoff is what skopeo waits first where the registry does not say
	// how long (backoffInitialDelay of containers/image).
	ownBackoff = 2 * time.Second
)

// ErrLimited says that a registry answered 429.
var ErrLimited = errors.New("too many requests")

// limitLine is what skopeo says, at debug level, of a 429. It would then sleep
// in place, from 2 s to 4 minutes, and ask up to four times more. The text is
// the same in all versions from 1.9.3 on.
var limitLine = regexp.MustCompile(`Too many requests to (\S+): sleeping for ([0-9.]+) seconds`)

// limit is a 429 that skopeo met.
type limit struct {
	host       string
	retryAfter time.Duration // 0 where the registry did not say
}

func (l *limit) Error() string { return fmt.Sprintf("%v to %s", ErrLimited, l.host) }
func (l *limit) Unwrap() error { return ErrLimited }

// pulledLine is what skopeo says, at debug level, just before it asks for the manifest,
// on a connection that it has and with a token that it has. Ended after that, the copy
// would have cost a pull in vain. Whatever it asks of blobs comes later.
var pulledLine = regexp.MustCompile(`GET https?://\S+/manifests/|(?:GET|HEAD) https?://\S+/blobs/`)

// brokenLine is what newer versions of skopeo say, at debug level, of a source that has
// closed the connection in the middle of a blob, with the milliseconds since its first
// byte was asked for and since any came. Where none has come for a minute they always
// connect again, for ever: each time, some bytes of headers are moved.
var brokenLine = regexp.MustCompile(`decision inputs: total \d+ @([0-9.]+) ms, last retry .*, last progress @ ?([0-9.]+|NaN) ms`)

// stderr keeps the last of what is written to it, and reports limits, the pull, and how
// long a source has been silent that has closed the connection.
type stderr struct {
	limited  func(*limit)
	pulled   func()
	silent   func(time.Duration)
	requests requests
	tail     bytes.Buffer
	line     []byte // the one not yet ended
}

func (s *stderr) Write(p []byte) (int, error) {
	s.tail.Write(p)
	if excess := s.tail.Len() - maxStderr; excess > 0 {
		s.tail.Next(excess)
	}
	for part := range bytes.Lines(p) {
		s.line = append(s.line, part[:min(len(part), maxLine-len(s.line))]...)
		if part[len(part)-1] == '\n' {
			s.look()
			s.line = s.line[:0]
		}
	}
	return len(p), nil
}

// look finds what is of interest in a line.
func (s *stderr) look() {
	if found := findLimit(s.line); found != nil {
		s.limited(found)
	}
	if pulledLine.Match(s.line) {
		s.pulled()
	}
	if found := brokenLine.FindSubmatch(s.line); found != nil {
		s.silent(milliseconds(found[2], found[1]))
	}
	s.requests.note(s.line)
}

// milliseconds is the first of the texts that is a number.
func milliseconds(texts ...[]byte) time.Duration {
	for _, text := range texts {
		if n, err := strconv.ParseFloat(string(text), 64); err == nil && n == n {
			return time.Duration(n * float64(time.Millisecond))
		}
	}
	return 0
}

func findLimit(line []byte) *limit {
	found := limitLine.FindSubmatch(line)
	if found == nil {
		return nil
	}
	asked, err := url.Parse(string(found[1]))
	if err != nil {
		return nil
	}
	seconds, _ := strconv.ParseFloat(string(found[2]), 64)
	wait := time.Duration(seconds * float64(time.Second))
	if wait <= ownBackoff {
		wait = 0
	}
	return &limit{host: asked.Host, retryAfter: wait}
}
