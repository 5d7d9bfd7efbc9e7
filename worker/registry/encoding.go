package registry

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// isEncoded reports whether an answer is the blob compressed with gzip, although the client has not
// requested that. Some storages send a Content-Encoding with layers that are compressed themselves.
// Then the length is that of the blob, or an attempt to decode it has failed before.
func (c *Client) isEncoded(got answer, blob Descriptor) bool {
	coding := strings.ToLower(strings.TrimSpace(got.header.Get("Content-Encoding")))
	return (coding == "gzip" || coding == "x-gzip") && got.status != http.StatusPartialContent &&
		blob.Size > 0 && got.size != blob.Size && !c.declared.isKnown(got.url.Host)
}

// decode reads content that is compressed.
func (c *Content) decode(p []byte) (int, error) {
	if c.unzip == nil {
		var err error
		if c.unzip, err = gzip.NewReader(c.opened); err != nil {
			c.unzip = nil
			return 0, c.undecoded(err)
		}
	}
	n, err := c.unzip.Read(p)
	return n, c.undecoded(err)
}

// undecoded returns the error of a reader that decodes.
func (c *Content) undecoded(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.As(err, new(*Error)):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return c.Short()
	}
	c.misread()
	return c.judged(about(fmt.Errorf("%w: decoding the content, which was declared as compressed: %w", ErrDigestMismatch, err), c.call.op, c.call.repository, c.call.reference))
}

// misread notes that the content was not compressed, if that is how it was read.
func (c *Content) misread() {
	if c.Encoded {
		c.declared.note(c.host)
	}
}
