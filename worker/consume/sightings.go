package consume

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// sightedBucket holds since when tags of sources have had their digests.
const sightedBucket = "mirror_sighted"

// sightedTags is a note about tags of a source. If they do not fit into it, those that were seen
// first are removed, because most of them are mirrored by then.
type sightedTags struct {
	Source reference.Repository               `json:"source"`
	Tags   map[reference.Tag]resolve.Sighting `json:"tags"`
}

// parseSighted reads a note about tags of a source. It returns an empty note for anything else.
func parseSighted(entry jetstream.KeyValueEntry, source reference.Repository) sightedTags {
	var note sightedTags
	if entry == nil || json.Unmarshal(entry.Value(), &note) != nil || note.Source != source {
		return sightedTags{}
	}
	maps.DeleteFunc(note.Tags, func(tag reference.Tag, s resolve.Sighting) bool { return tag.IsZero() || s.Digest.IsZero() })
	return note
}

// sightedShards is how many notes a source has. A note holds some 4,000 tags, and a repository has
// up to 250,000. The waiting time of a tag that is removed from a note starts again.
const sightedShards = 64

// shardOf returns the key of the note that holds a tag.
func shardOf(source reference.Repository, tag reference.Tag) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(tag.String())) // it has no error
	return fmt.Sprintf("%s.%d", keyOf(source), h.Sum32()%sightedShards)
}

// Sighted implements compare.Ages.
func (n *Notes) Sighted(ctx context.Context, source reference.Repository) (tags map[reference.Tag]resolve.Sighting, err error) {
	err = n.retry(ctx, func(ctx context.Context) error {
		tags = map[reference.Tag]resolve.Sighting{}
		_, err := n.broker.Entries(ctx, sightedBucket, keyOf(source)+".*", 0, func(e jetstream.KeyValueEntry) {
			maps.Copy(tags, parseSighted(e, source).Tags)
		})
		if err != nil {
			return fmt.Errorf("reading when the tags of %s got their digests: %w", source, err)
		}
		return nil
	})
	return tags, err
}

// NoteSightings implements chunk.Notes.
func (n *Notes) NoteSightings(ctx context.Context, source reference.Repository, tags map[reference.Tag]resolve.Sighting) error {
	shards := map[string]map[reference.Tag]resolve.Sighting{}
	for tag, s := range tags {
		key := shardOf(source, tag)
		if shards[key] == nil {
			shards[key] = map[reference.Tag]resolve.Sighting{}
		}
		shards[key][tag] = s
	}
	for key, tags := range shards {
		if err := n.noteShard(ctx, key, source, tags); err != nil {
			return err
		}
	}
	return nil
}

// noteShard adds sightings to a note. The earlier of two sightings of a digest counts, unless a
// listing of the source shows that the tag has got the digest again since.
func (n *Notes) noteShard(ctx context.Context, key string, source reference.Repository, tags map[reference.Tag]resolve.Sighting) error {
	return n.update(ctx, n.sighted, key, func(last jetstream.KeyValueEntry) ([]byte, error) {
		note := parseSighted(last, source)
		note.Source = source
		if note.Tags == nil {
			note.Tags = map[reference.Tag]resolve.Sighting{}
		}
		for tag, s := range tags {
			if known := note.Tags[tag]; known.Digest != s.Digest || s.ByListing || s.Since.Before(known.Since) {
				note.Tags[tag] = s
			}
		}
		return fit(note, note.Tags, func(a, b resolve.Sighting) int { return a.Since.Compare(b.Since) })
	})
}

// Released implements compare.Ages.
func (n *Notes) Released(ctx context.Context, source reference.Repository, digest reference.Digest) (released bool, err error) {
	err = n.retry(ctx, func(ctx context.Context) error {
		var err error
		released, err = n.releases.Has(ctx, source, digest)
		return err
	})
	return released, err
}
