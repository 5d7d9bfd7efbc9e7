package consume

import (
	"context"
	"encoding/json"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
)

const (
	listedBucket = "mirror_listed" // how many tags sources list
	// keepListed is how long the note about a source is kept after it was written.
	keepListed = 90 * 24 * time.Hour
	// renewListed is the age at which an unchanged note is written again, so that it stays.
	renewListed = keepListed / 3
)

// listedNote is the note about a source.
type listedNote struct {
	Source reference.Repository `json:"source"`
	Tags   int                  `json:"tags"`
}

// Counted implements chunk.Notes.
func (n *Notes) Counted(ctx context.Context, source reference.Repository) (compare.Listing, error) {
	last, err := n.AllCounted(ctx, []reference.Repository{source})
	return last[source], err
}

// AllCounted implements chunk.Notes.
func (n *Notes) AllCounted(ctx context.Context, sources []reference.Repository) (last map[reference.Repository]compare.Listing, err error) {
	keys := make([]string, len(sources))
	for i, source := range sources {
		keys[i] = keyOf(source)
	}
	err = n.retry(ctx, func(ctx context.Context) error {
		values, err := n.broker.Values(ctx, listedBucket, keys)
		last = make(map[reference.Repository]compare.Listing, len(sources))
		for i, source := range sources {
			entry := values[keys[i]]
			var note listedNote
			if entry != nil && json.Unmarshal(entry.Value(), &note) == nil && note.Source == source && note.Tags >= 0 {
				last[source] = compare.Listing{Tags: note.Tags, At: entry.Created()}
			}
		}
		return err
	})
	return last, err
}

// NoteCounted implements chunk.Notes.
func (n *Notes) NoteCounted(ctx context.Context, source reference.Repository, last compare.Listing, tags int, whole bool) error {
	if !whole && tags < last.Tags || last.Tags == tags && time.Since(last.At) < renewListed {
		return nil
	}
	data, err := json.Marshal(listedNote{Source: source, Tags: tags})
	if err != nil {
		return err
	}
	return n.write(ctx, n.listed, keyOf(source), string(data))
}
