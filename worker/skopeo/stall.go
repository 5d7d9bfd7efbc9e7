package skopeo

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/child"
)

// errSilentSource is the cause of a copy's end when the source has sent no byte of a blob
// for Stall, however often it was asked.
var errSilentSource = errors.New("the source sends nothing")

// stalledAt is the error of a copy that moved no byte for Stall, and that waits for the
// host of a side, where that is known.
func (r *Runner) stalledAt(side Side, host string) *Error {
	reason := fmt.Sprintf("stalled: no byte moved for %s", r.Stall)
	if side != Neither {
		reason += ", waiting for " + host
	}
	return &Error{Reason: reason, ExitCode: noExitCode, Side: side, Registry: host, Err: child.ErrStalled}
}

// requestLine is what skopeo says, at debug level, before each request.
var requestLine = regexp.MustCompile(`msg="(GET|HEAD|POST|PATCH|PUT) https?://([^/\s"]+)([^\s"]*)`)

// requests are what skopeo has asked registries for. It does not say what was answered. A
// blob that the destination lacks takes a GET, a POST, a PATCH and a PUT, in this order.
type requests struct {
	host      string // of the last request
	manifest  bool   // the last request puts it: all blobs are there
	fetching  int    // blobs asked of the source, before the destination was asked where to put them
	uploading int    // blobs that are sent
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

// waitFor returns the side that the copy waits for when nothing moves, with its host.
// Where only one of them is silent, what was asked of the other leads to a next request,
// unless that was the end of a blob. It is Neither where that is not known: while a blob
// is sent, a source that does not send the rest of it looks like a destination that does
// not answer.
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
