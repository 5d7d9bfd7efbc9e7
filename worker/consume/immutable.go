package consume

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
)

const (
	heldBucket = "mirror_immutable" // what destinations have under immutable tags
	// heldFor is how long a destination is believed to have an immutable tag. Then it is
	// asked again, in case someone has deleted the tag there.
	heldFor = 30 * 24 * time.Hour
	// keepHeld is how long a note is kept of a destination that no run looks at.
	keepHeld = 3 * heldFor
)

// heldTags is the note about a destination. Tags that do not fit are asked for in each run.
type heldTags struct {
	Destination reference.Repository       `json:"destination"`
	From        reference.Repository       `json:"from"` // the source of all of them
	Tags        map[reference.Tag]*heldTag `json:"tags"`
}

// heldTag is a compare.Held, in few bytes.
type heldTag struct {
	Source reference.Digest `json:"s"`
	At     reference.Digest `json:"a,omitzero"` // if it is another one
	Since  int64            `json:"t"`          // when it was seen at the destination, in seconds
}

// parseHeld reads a note. It ignores what is not one about the destination.
func parseHeld(entry jetstream.KeyValueEntry, destination reference.Repository) heldTags {
	var note heldTags
	if entry == nil || json.Unmarshal(entry.Value(), &note) != nil || note.Destination != destination {
		return heldTags{}
	}
	maps.DeleteFunc(note.Tags, func(tag reference.Tag, h *heldTag) bool { return tag.IsZero() || h == nil || h.Source.IsZero() })
	return note
}

func heldKey(destination reference.Repository) string { return hash([]byte(destination.String())) }

// Held implements chunk.Notes.
func (n *Notes) Held(ctx context.Context, destination reference.Repository) (map[reference.Tag]compare.Held, error) {
	var found map[reference.Tag]compare.Held
	err := n.retry(ctx, func(ctx context.Context) error {
		entry, err := n.get(ctx, n.held, heldKey(destination))
		found = map[reference.Tag]compare.Held{}
		note := parseHeld(entry, destination)
		for tag, h := range note.Tags {
			at := h.At
			if at.IsZero() {
				at = h.Source
			}
			found[tag] = compare.Held{From: note.From, Source: h.Source, At: at, Fresh: time.Since(time.Unix(h.Since, 0)) < heldFor}
		}
		return err
	})
	return found, err
}

// NoteHeld implements chunk.Notes.
func (n *Notes) NoteHeld(ctx context.Context, destination reference.Repository, tags map[reference.Tag]compare.Held) error {
	return n.retry(ctx, func(ctx context.Context) error {
		_, err := broker.Update(ctx, n.held, heldKey(destination), func(last jetstream.KeyValueEntry) ([]byte, error) {
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
			return note.encode()
		})
		return err
	})
}

// encode returns the note without the oldest tags, if it is too large for a message.
func (h heldTags) encode() ([]byte, error) {
	for {
		data, err := json.Marshal(h)
		if err != nil || len(data) <= message.MaxSize {
			return data, err
		}
		oldest := slices.SortedFunc(maps.Keys(h.Tags), func(a, b reference.Tag) int { return int(h.Tags[a].Since - h.Tags[b].Since) })
		for _, tag := range oldest[:1+len(oldest)/10] {
			delete(h.Tags, tag)
		}
	}
}

// ForgetHeld removes tags that were deleted from the note about a destination, so that they are
// mirrored again if the list or the source has them again.
func (n *Notes) ForgetHeld(ctx context.Context, destination reference.Repository, tags map[reference.Tag]reference.Digest) error {
	return n.retry(ctx, func(ctx context.Context) error {
		_, err := broker.Update(ctx, n.held, heldKey(destination), func(last jetstream.KeyValueEntry) ([]byte, error) {
			note := parseHeld(last, destination)
			before := len(note.Tags)
			maps.DeleteFunc(note.Tags, func(tag reference.Tag, _ *heldTag) bool { _, deleted := tags[tag]; return deleted })
			if len(note.Tags) == before {
				return nil, nil
			}
			return note.encode()
		})
		return err
	})
}
