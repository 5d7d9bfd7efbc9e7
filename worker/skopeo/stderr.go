package skopeo

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// maxStderr is how many bytes at the end of skopeo's output are kept, for reason.
	maxStderr = 64 << 10

	// maxLine is how many bytes of a line are searched.
	maxLine = 8 << 10

	// ownBackoff is skopeo's first wait if the registry sends no Retry-After
	// (backoffInitialDelay of containers/image).
	ownBackoff = 2 * time.Second
)

// ErrLimited means that a registry answered 429.
var ErrLimited = errors.New("too many requests")

// limitLine matches skopeo's debug message after a 429, which is the same in all versions
// since 1.9.3. skopeo would then sleep, from 2 s to 4 minutes, and retry up to four times.
var limitLine = regexp.MustCompile(`Too many requests to (\S+): sleeping for ([0-9.]+) seconds`)

// limit is a 429 that skopeo got.
type limit struct {
	host       string
	retryAfter time.Duration // 0 if the registry has sent none
}

func (l *limit) Error() string { return fmt.Sprintf("%v to %s", ErrLimited, l.host) }
func (l *limit) Unwrap() error { return ErrLimited }

// pulledLine matches skopeo's debug message just before it requests the manifest, when it has a
// connection and credentials: from then on, the pull is spent. It also matches the requests for
// blobs, which come later.
var pulledLine = regexp.MustCompile(`GET https?://\S+/manifests/|(?:GET|HEAD) https?://\S+/blobs/`)

// brokenLine matches the debug message that newer versions of skopeo write when a source has closed
// the connection in the middle of a blob. It has the milliseconds since the first request for the
// blob and since its last byte. If no byte has come for a minute, these versions reconnect without
// end; the headers that move each time would hide the stall.
var brokenLine = regexp.MustCompile(`decision inputs: total \d+ @([0-9.]+) ms, last retry .*, last progress @ ?([0-9.]+|NaN) ms`)

// stderr keeps the last bytes that skopeo writes. It calls limited after a 429, pulled before the
// pull, and silent with the time since the last byte when a source has closed the connection.
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

// look searches a line for the messages above.
func (s *stderr) look() {
	if found := findLimit(s.line); found != nil {
		s.limited(found)
	}
	if bytes.Contains(s.line, []byte("://")) && pulledLine.Match(s.line) { // the expression alone takes long
		s.pulled()
	}
	if found := brokenLine.FindSubmatch(s.line); found != nil {
		s.silent(milliseconds(found[2], found[1]))
	}
	s.requests.note(s.line)
}

// milliseconds returns the first of the texts that is a number; 0 if none is.
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

// requestLine matches skopeo's debug message before each request.
var requestLine = regexp.MustCompile(`msg="(GET|HEAD|POST|PATCH|PUT) https?://([^/\s"]+)([^\s"]*)`)

// requests tracks the requests that skopeo logs. It does not log answers. A blob that the destination
// lacks takes a GET, a POST, a PATCH and a PUT, in this order.
type requests struct {
	host      string // of the last request
	manifest  bool   // the last request puts the manifest, after all blobs
	fetching  int    // blobs that were requested from the source and whose upload has not begun
	uploading int    // blobs that are being uploaded
}

func (r *requests) note(line []byte) {
	found := requestLine.FindSubmatch(line)
	if found == nil {
		return
	}
	method, path := string(found[1]), string(found[3])
	manifest := strings.Contains(path, "/manifests/")
	r.host, r.manifest = reference.CanonicalHost(string(found[2])), method == "PUT" && manifest
	switch {
	case method == "GET" && strings.Contains(path, "/blobs/"):
		r.fetching++
	case method == "POST" && !strings.Contains(path, "mount="):
		r.fetching--
	case method == "PATCH":
		r.uploading++
	case method == "PUT" && !manifest:
		r.uploading--
	}
}

// waitFor returns the side for which a copy waits if no byte moves, and its host. unsent reports
// whether this machine has data that the other end has not taken. The side of the last request is the
// silent one, because an answer would have led to another request. While a blob is being uploaded,
// that does not hold: a source that stops sending looks like a destination that does not answer. Then
// waitFor returns Neither.
func (r *requests) waitFor(unsent bool, source, destination string) (Side, string) {
	switch {
	case r.host == source:
		return Source, source
	case r.host != destination: // a token server, or a mirror of registries.conf
	case r.manifest, r.uploading == 0 && r.fetching == 0, r.uploading > 0 && unsent:
		return Destination, destination
	}
	return Neither, ""
}
