package consume

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
)

const (
	heldBucket = "mirror_immutable" // what destinations have under immutable tags
	// heldFor is how long a note about an immutable tag counts. After that, the destination is
	// asked again, because the tag may have been deleted there.
	heldFor = 30 * 24 * time.Hour
	// keepHeld is how long the note about a destination is kept after its last change.
	keepHeld = 3 * heldFor
)

// heldTags is the note about a destination. Tags that do not fit into it are looked up in each run.
type heldTags struct {
	Destination reference.Repository       `json:"destination"`
	From        reference.Repository       `json:"from"` // the source of all of them
	Tags        map[reference.Tag]*heldTag `json:"tags"`
}

// heldTag is a compare.Held in short form.
type heldTag struct {
	Source reference.Digest `json:"s"`
	At     reference.Digest `json:"a,omitzero"` // if it differs from Source
	Since  int64            `json:"t"`          // when it was seen at the destination, in seconds
}

// parseHeld reads the note about a destination. It returns an empty note for anything else.
func parseHeld(entry jetstream.KeyValueEntry, destination reference.Repository) heldTags {
	var note heldTags
	if entry == nil || json.Unmarshal(entry.Value(), &note) != nil || note.Destination != destination {
		return heldTags{}
	}
	maps.DeleteFunc(note.Tags, func(tag reference.Tag, h *heldTag) bool { return tag.IsZero() || h == nil || h.Source.IsZero() })
	return note
}

// Held implements chunk.Notes.
func (n *Notes) Held(ctx context.Context, destination reference.Repository) (map[reference.Tag]compare.Held, error) {
	entry, err := n.get(ctx, n.held, keyOf(destination))
	found := map[reference.Tag]compare.Held{}
	note := parseHeld(entry, destination)
	for tag, h := range note.Tags {
		at := h.At
		if at.IsZero() {
			at = h.Source
		}
		found[tag] = compare.Held{From: note.From, Source: h.Source, At: at, Fresh: time.Since(time.Unix(h.Since, 0)) < heldFor}
	}
	return found, err
}

// NoteHeld implements chunk.Notes.
func (n *Notes) NoteHeld(ctx context.Context, destination reference.Repository, tags map[reference.Tag]compare.Held) error {
	return n.update(ctx, n.held, keyOf(destination), func(last jetstream.KeyValueEntry) ([]byte, error) {
		note := parseHeld(last, destination)
		note.Destination = destination
		for tag, h := range tags {
			if note.Tags == nil || note.From != h.From {
				note.Tags, note.From = map[reference.Tag]*heldTag{}, h.From
			}
			added := &heldTag{Source: h.Source, Since: time.Now().Unix()}
			if h.At != h.Source {
				added.At = h.At
			}
			note.Tags[tag] = added
		}
		return fit(note, note.Tags, olderHeld)
	})
}

func olderHeld(a, b *heldTag) int { return cmp.Compare(a.Since, b.Since) }

// ForgetHeld removes tags that were deleted from the note about a destination, so that they are
// mirrored again if the list or the source has them again.
func (n *Notes) ForgetHeld(ctx context.Context, destination reference.Repository, tags map[reference.Tag]reference.Digest) error {
	return n.update(ctx, n.held, keyOf(destination), func(last jetstream.KeyValueEntry) ([]byte, error) {
		note := parseHeld(last, destination)
		before := len(note.Tags)
		maps.DeleteFunc(note.Tags, func(tag reference.Tag, _ *heldTag) bool { _, deleted := tags[tag]; return deleted })
		if len(note.Tags) == before {
			return nil, nil
		}
		return json.Marshal(note)
	})
}
