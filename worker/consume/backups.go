package consume

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
)

// backupBucket holds the backups of tags that were replaced, by destination.
const backupBucket = "mirror_backups"

// backedUp is the note about a destination. Workers delete only backups that are in the note.
type backedUp struct {
	Destination reference.Repository               `json:"destination"`
	Tags        map[reference.Tag][]compare.Backup `json:"tags"`
}

// parseBackups reads the note about a destination. It returns nothing for anything else, because
// workers delete the tags that the note names.
func parseBackups(entry jetstream.KeyValueEntry, destination reference.Repository) map[reference.Tag][]compare.Backup {
	var note backedUp
	if entry == nil || json.Unmarshal(entry.Value(), &note) != nil || note.Destination != destination {
		return nil
	}
	maps.DeleteFunc(note.Tags, func(tag reference.Tag, backups []compare.Backup) bool {
		return tag.IsZero() || slices.ContainsFunc(backups, func(b compare.Backup) bool { return b.Name.IsZero() || b.Digest.IsZero() })
	})
	return note.Tags
}

// Backups implements chunk.Notes.
func (n *Notes) Backups(ctx context.Context, destination reference.Repository) (map[reference.Tag][]compare.Backup, error) {
	entry, err := n.get(ctx, n.backups, keyOf(destination))
	return parseBackups(entry, destination), err
}

// NoteBackups implements chunk.Notes.
func (n *Notes) NoteBackups(ctx context.Context, destination reference.Repository, tag reference.Tag, backups []compare.Backup) error {
	return n.update(ctx, n.backups, keyOf(destination), func(last jetstream.KeyValueEntry) ([]byte, error) {
		note := backedUp{destination, parseBackups(last, destination)}
		if note.Tags == nil {
			note.Tags = map[reference.Tag][]compare.Backup{}
		}
		note.Tags[tag] = backups
		data, err := json.Marshal(note)
		if len(data) > message.MaxSize {
			return nil, err // it has some 5,000 tags; a backup that is not noted is never deleted
		}
		return data, err
	})
}
