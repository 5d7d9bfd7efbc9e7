// Package plan splits a list into chunks, publishes them, and ends runs.
package plan

import (
	"fmt"
	"time"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// Chunk is a slice of the list, all from one source registry. A slice that spans
// registries is several chunks under one number.
type Chunk struct {
	Number   int // from 1
	Registry string
	Due      time.Time
	Entries  []list.Entry
}

// Chunking states how a list is split, and which of its chunks are published.
type Chunking struct {
	Size     int           // entries per chunk; 0: the whole list is one chunk
	Number   int           // publish only the chunk with this number, from 1; 0: all
	Interval time.Duration // chunk k is due (k-1) times this after the first
}

// Full reports whether all chunks are published.
func (c Chunking) Full() bool { return c.Number == 0 }

// ErrTooLong is returned if the last chunk would be due after its run is forgotten.
var ErrTooLong = exit.Usage.New("CHUNK_INTERVAL is too long")

// Split splits the entries into chunks. The first is due at start. If Number is out of range, there are
// no chunks.
func (c Chunking) Split(entries []list.Entry, start time.Time) ([]Chunk, error) {
	size := c.Size
	if size == 0 {
		size = max(1, len(entries))
	}
	if n := (len(entries) + size - 1) / size; c.Full() && c.Interval > 0 && n > 1 && time.Duration(n-1) > run.Keep/c.Interval {
		return nil, fmt.Errorf("%w: with %s, the last of %d chunks would be due more than %d days after the first, when the run is no longer kept: set a shorter CHUNK_INTERVAL or a larger CHUNK_SIZE",
			ErrTooLong, c.Interval, n, run.Keep/(24*time.Hour))
	}
	var chunks []Chunk
	for number := 1; (number-1)*size < len(entries); number++ {
		due := start
		switch {
		case c.Full():
			due = start.Add(time.Duration(number-1) * c.Interval)
		case c.Number != number:
			continue
		}
		slice := entries[(number-1)*size : min(number*size, len(entries))]
		chunks = append(chunks, group(slice, number, due)...)
	}
	return chunks, nil
}

// group returns a chunk for each registry of a slice, in the order of the list.
func group(slice []list.Entry, number int, due time.Time) []Chunk {
	var chunks []Chunk
	index := map[string]int{}
	for _, e := range slice {
		i, known := index[e.Repository.Registry()]
		if !known {
			i = len(chunks)
			index[e.Repository.Registry()] = i
			chunks = append(chunks, Chunk{Number: number, Registry: e.Repository.Registry(), Due: due})
		}
		chunks[i].Entries = append(chunks[i].Entries, e)
	}
	return chunks
}

func (c Chunk) message(name, id string) message.Chunk {
	return message.Chunk{Name: name, Run: id, Number: c.Number, Registry: c.Registry, Repositories: c.Repositories()}
}

// Repositories returns the entries in the form of messages.
func (c Chunk) Repositories() []message.Repository {
	var all []message.Repository
	for _, e := range c.Entries {
		all = append(all, message.Repository{
			Source: e.Repository, Destination: e.Destination, Tag: e.Tag, Digest: e.Digest, Selection: e.Selection.Pointer(),
		})
	}
	return all
}

// address returns the address of the chunk in the stream. A chunk that is too large for one message has
// several pieces, counted from 0.
func (c Chunk) address(name, id string, piece int) subject.Address {
	token := fmt.Sprintf("%06d", c.Number)
	if piece > 0 {
		token += fmt.Sprintf("p%d", piece+1)
	}
	return subject.NewAddress(name, id, c.Registry, token)
}
