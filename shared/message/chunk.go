// Package message defines the message between planner and workers: the chunk.
package message

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// Version is the newest version of the message that this build understands. Raise it if an older
// worker would do the wrong thing with a message, or would lose a field of it in a remainder.
const Version = 3

// MaxSize is the size in bytes above which a message is split: half of the largest message that a
// NATS server allows by default (1 MiB).
const MaxSize = 512 << 10

var (
	// ErrNewer is returned by Decode for a message of a later version.
	ErrNewer = errors.New("the message is of a newer version")
	// ErrMalformed is returned by Decode for a message that is not a chunk.
	ErrMalformed = errors.New("not a chunk")
	errTooLarge  = errors.New("larger than a message may be")
)

// Chunk is the unit of delivery: repositories to resolve, or images to copy, all from one source
// registry.
type Chunk struct {
	Version  int    `json:"version"`
	Name     string `json:"name"`
	Run      string `json:"run"`
	Number   int    `json:"number"` // counted from 1; in a republish, that of the chunk that failed
	Registry string `json:"registry"`
	// Republished chunks are never dropped because of a newer run.
	Republished  bool         `json:"republished,omitempty"`
	Repositories []Repository `json:"repositories"`
}

// Repository is one entry of the list. Without a tag and a digest, it stands for all tags that its
// selection matches. If it has Images, it was resolved, and these are left to do.
type Repository struct {
	Source      reference.Repository `json:"source"`      // docker.io/library/nginx
	Destination reference.Repository `json:"destination"` // host[:port]/prefix/library/nginx
	Tag         reference.Tag        `json:"tag,omitzero"`
	Digest      reference.Digest     `json:"digest,omitzero"` // from the list; the tag is not looked up then
	Images      []Image              `json:"images,omitempty"`
	Attempts    int                  `json:"attempts,omitempty"` // tries of the listing so far
	// Found is true if the source has at least one of the entry's tags, or if the repository was
	// recorded as failed. While it is false, the source may have denied all of them.
	Found bool `json:"found,omitempty"`
	// Selection selects tags, and parts of each image. If nil, everything is mirrored.
	Selection *selection.Selection `json:"selection,omitempty"`
}

// Image is a tag with the digest that it had when it was resolved. An old digest is looked up again.
type Image struct {
	Tag       reference.Tag    `json:"tag"`
	Digest    reference.Digest `json:"digest"`
	MediaType string           `json:"media_type,omitempty"`
	Attempts  int              `json:"attempts,omitempty"` // tries so far
}

// Images returns the number of images in the chunk. A repository that is not resolved counts as one.
func (c Chunk) Images() int {
	n := 0
	for _, r := range c.Repositories {
		n += max(1, len(r.Images))
	}
	return n
}

// Encode returns the chunk as JSON.
func (c Chunk) Encode() ([]byte, error) {
	c.Version = Version
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding chunk %d of run %s: %w", c.Number, c.Run, err)
	}
	return data, nil
}

// Decode parses a chunk. Its error is ErrNewer for a message of a later version, and ErrMalformed for
// a message that is not a chunk.
func Decode(data []byte) (Chunk, error) {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil || head.Version < 1 {
		return Chunk{}, fmt.Errorf("%w: no version", ErrMalformed)
	}
	if head.Version > Version {
		return Chunk{}, fmt.Errorf("%w: %d, this build understands %d", ErrNewer, head.Version, Version)
	}
	var c Chunk
	if err := json.Unmarshal(data, &c); err != nil {
		return Chunk{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if c.Name == "" || c.Run == "" || c.Registry == "" {
		return Chunk{}, fmt.Errorf("%w: name, run or registry is missing", ErrMalformed)
	}
	if _, err := reference.ParseRepository(c.Registry + "/any/path"); err != nil {
		return Chunk{}, fmt.Errorf("%w: %s is not a registry", ErrMalformed, reference.Quote(c.Registry))
	}
	for i, r := range c.Repositories {
		if err := r.check(c.Registry); err != nil {
			return Chunk{}, fmt.Errorf("%w: repository %d: %w", ErrMalformed, i+1, err)
		}
	}
	return c, nil
}

// check checks what the types of the fields do not guarantee.
func (r Repository) check(registry string) error {
	switch {
	case r.Source.IsZero() || r.Destination.IsZero():
		return errors.New("source or destination is missing")
	case r.Source.Registry() != registry:
		return fmt.Errorf("%s is not of %q", r.Source, registry)
	}
	return nil
}

// Split divides a chunk into pieces that stay below MaxSize when they are encoded. Nearly every chunk
// is one piece.
func Split(c Chunk) ([]Chunk, error) { return split(c, MaxSize) }

func split(c Chunk, limit int) ([]Chunk, error) {
	data, err := c.Encode()
	if err != nil {
		return nil, err
	}
	if len(data) < limit {
		return []Chunk{c}, nil
	}
	left, right, ok := halve(c)
	if !ok {
		return nil, fmt.Errorf("chunk %d of run %s: %w", c.Number, c.Run, errTooLarge)
	}
	first, err := split(left, limit)
	if err != nil {
		return nil, err
	}
	rest, err := split(right, limit)
	return append(first, rest...), err
}

// halve divides a chunk between repositories or, if it has only one, between images. It returns false
// if the chunk has only one image.
func halve(c Chunk) (left, right Chunk, ok bool) {
	left, right = c, c
	if n := len(c.Repositories); n > 1 {
		left.Repositories, right.Repositories = c.Repositories[:n/2], c.Repositories[n/2:]
		return left, right, true
	}
	if len(c.Repositories) == 0 || len(c.Repositories[0].Images) < 2 {
		return c, c, false
	}
	l, r := c.Repositories[0], c.Repositories[0]
	n := len(l.Images)
	l.Images, r.Images = l.Images[:n/2], l.Images[n/2:]
	left.Repositories, right.Repositories = []Repository{l}, []Repository{r}
	return left, right, true
}

// excerptBytes is how many bytes of an unreadable message are shown: enough to recognize it, and few
// enough for one line.
const excerptBytes = 128

// Excerpt returns the beginning of data, quoted: in ASCII, and without control characters.
func Excerpt(data []byte) string {
	if len(data) <= excerptBytes {
		return strconv.QuoteToASCII(string(data))
	}
	return fmt.Sprintf("%s… (%d bytes)", strconv.QuoteToASCII(string(data[:excerptBytes])), len(data))
}
