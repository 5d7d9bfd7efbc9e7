package registry

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

// maxConfigSize bounds a configuration. It has a line for each layer and command.
const maxConfigSize = 4 << 20

// Config returns a small blob such as the configuration of an image, at most 4 MiB of it,
// after checking its digest.
func (c *Client) Config(ctx context.Context, repository reference.Repository, blob reference.Digest) ([]byte, error) {
	got, err := c.send(ctx, &call{
		op: OpGetBlob, repository: repository, reference: blob, method: http.MethodGet,
		scope: transport.PullScope, path: blobs, limit: maxConfigSize, instead: aBlob,
	})
	if err != nil {
		return nil, err
	}
	if blob.Of(got.body) != blob {
		return nil, &Error{Op: OpGetBlob, Repository: repository, Reference: blob, Err: otherBlob(got.status, got.body, blob)}
	}
	return got.body, nil
}

// beginning is how much of a blob LookAtBlob reads, in bytes.
const beginning = 1 << 10

// Content is a blob as a registry sends it, unchecked. Its read errors wrap an *Error, except
// io.EOF. It must be closed, and is not safe for concurrent use.
type Content struct {
	From int64 // offset of the first byte
	Size int64 // of the whole blob; -1 if the registry does not state it

	// Encoded is set if the registry has sent the blob compressed. Read decodes it.
	Encoded bool

	unzip    *gzip.Reader // nil before the first byte
	declared *memory
	host     string // has sent it
	*opened
}

// Read implements io.Reader.
func (c *Content) Read(p []byte) (int, error) {
	if c.Encoded {
		return c.decode(p)
	}
	return c.opened.Read(p)
}

// apartFrom is the size in bytes above which a blob gets a connection of its own, over HTTP/1.1.
// Networks and registries limit each connection by a rate, its losses or a window, and all
// requests over HTTP/2 share one: many servers take no more than 64 KiB or 1 MiB of an upload in
// each round trip. For smaller blobs, the handshakes of another connection would take longer.
const apartFrom = 4 << 20

// Open requests a blob from an offset on. If the registry does not serve parts, it sends the
// whole blob and From is 0.
func (c *Client) Open(ctx context.Context, repository reference.Repository, blob Descriptor, from int64) (*Content, error) {
	get := c.open(repository, blob.Digest)
	get.from, get.apart = from, blob.Size-from > apartFrom
	got, err := c.send(ctx, get)
	switch {
	case from > 0 && statusOf(err) == http.StatusRequestedRangeNotSatisfiable:
		return c.Open(ctx, repository, blob, 0)
	case err != nil:
		return nil, err
	}
	content := &Content{Size: got.size, opened: got.opened, declared: c.declared, host: got.url.Host}
	switch {
	case c.isEncoded(got, blob):
		content.Encoded, content.Size = true, -1
		return content, nil
	case got.status == http.StatusOK:
		return content, nil
	case got.status == http.StatusPartialContent:
		if end, whole, ok := contentRange(got.header.Get("Content-Range"), from); ok && (whole < 0 && from > 0 || end == whole) {
			content.From, content.Size = from, whole
			return content, nil
		}
	}
	_ = content.Close()
	if got.status == http.StatusPartialContent && from > 0 {
		return c.Open(ctx, repository, blob, 0) // the registry sends another part
	}
	return nil, about(fmt.Errorf("%w: answered %d instead of the blob", ErrUnexpected, got.status), OpGetBlob, repository, blob.Digest)
}

// open returns a call for a blob that is read later.
func (c *Client) open(repository reference.Repository, blob reference.Digest) *call {
	return &call{
		op: OpGetBlob, repository: repository, reference: blob, method: http.MethodGet,
		scope: transport.PullScope, path: blobs, limit: maxErrorSize, instead: aBlob,
		large: true, within: c.copyTimeout, opens: true,
	}
}

// OpenPart requests the bytes of a blob from an offset on and before another one, over a
// connection of their own. The error wraps ErrUnexpected if the registry sends anything else.
func (c *Client) OpenPart(ctx context.Context, repository reference.Repository, blob reference.Digest, from, before int64) (*Content, error) {
	get := c.open(repository, blob)
	get.from, get.before, get.apart = from, before, true
	got, err := c.send(ctx, get)
	if err != nil {
		return nil, err
	}
	content := &Content{From: from, Size: -1, opened: got.opened}
	if end, whole, ok := contentRange(got.header.Get("Content-Range"), from); ok && got.status == http.StatusPartialContent && end == before {
		content.Size = whole
		return content, nil
	}
	_ = content.Close()
	return nil, about(fmt.Errorf("%w: answered %d instead of a part of the blob", ErrUnexpected, got.status), OpGetBlob, repository, blob)
}

// contentRange parses a Content-Range header that starts at an offset. It returns the offset
// after its last byte, and the size of the whole blob, -1 if unknown.
func contentRange(text string, from int64) (before, whole int64, ok bool) {
	text, ok = strings.CutPrefix(strings.TrimSpace(text), "bytes ")
	part, of, _ := strings.Cut(text, "/")
	first, last, _ := strings.Cut(part, "-")
	begin, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	end, errEnd := strconv.ParseInt(strings.TrimSpace(last), 10, 64)
	if !ok || err != nil || errEnd != nil || begin != from || end < begin {
		return 0, 0, false
	}
	if of = strings.TrimSpace(of); of == "*" {
		return end + 1, -1, true
	}
	whole, err = strconv.ParseInt(of, 10, 64)
	return end + 1, whole, err == nil && end < whole
}

// Another returns the error of a source that has sent something else than the blob. begin are the
// first bytes of that.
func (c *Content) Another(begin []byte) error {
	c.misread()
	wanted, _ := c.call.reference.(reference.Digest) // Open has nothing else
	return c.judged(about(otherBlob(c.status, begin, wanted), OpGetBlob, c.call.repository, wanted))
}

// Short returns the error of a source that ended before the end of the blob.
func (c *Content) Short() error {
	return c.judged(about(fmt.Errorf("%w: %w", ErrUnavailable, io.ErrUnexpectedEOF), c.call.op, c.call.repository, c.call.reference))
}

// LookAtBlob returns an error that wraps ErrPage if the registry sends an HTML page instead of
// a blob. It reads only the beginning.
func (c *Client) LookAtBlob(ctx context.Context, repository reference.Repository, blob reference.Digest) error {
	content, err := c.Open(ctx, repository, Descriptor{Digest: blob}, 0)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	begin, err := io.ReadAll(io.LimitReader(content, beginning))
	if err == nil && (len(begin) == 0 || isMarkup(begin)) {
		err = content.Another(begin)
	}
	return err
}

// sendOpen sends a call whose answer is read later. The guard watches the reading, too: the
// reader gets the guard's error.
func (c *Client) sendOpen(ctx context.Context, call *call) (answer, error) {
	type sent struct {
		got answer
		err error
	}
	began, ended := make(chan sent, 1), make(chan error, 1)
	read, judged := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(judged)
		growStack(0)
		ended <- c.guard(ctx, call.guarded(), func() error {
			got, err := c.sendNow(ctx, call)
			if err != nil {
				return err
			}
			got.opened.judge = func(err error) error {
				read <- err
				return call.wrap(<-ended)
			}
			began <- sent{got, nil}
			return <-read
		})
	}()
	select {
	case s := <-began:
		return s.got, nil
	case <-judged:
		return answer{}, call.wrap(<-ended)
	}
}

// opened is the body of an answer that is read after its call has returned.
type opened struct {
	body   io.ReadCloser
	status int
	call   *call
	at     location
	ctx    context.Context
	end    func()
	judge  func(err error) error // ends the call and returns the guard's error; nil: no guard
	over   bool                  // judge was called
}

// Read implements io.Reader.
func (o *opened) Read(p []byte) (int, error) {
	n, err := o.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = about(trouble(o.ctx, o.at.registry.RegistryStr(), err), o.call.op, o.call.repository, o.call.reference)
		err = o.judged(err)
	}
	return n, err
}

// judged ends the call with an error, or successfully if it is nil, and returns the guard's
// error.
func (o *opened) judged(err error) error {
	if o.judge == nil || o.over {
		return err
	}
	o.over = true
	return o.judge(err)
}

// Close ends the transfer.
func (o *opened) Close() error {
	defer o.end()
	_ = o.judged(nil)
	return o.body.Close()
}
