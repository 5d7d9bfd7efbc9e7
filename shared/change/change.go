// Package change records the changes of runs at their destinations: new tags, tags that have moved
// to another digest, tags that sources no longer have, and immutable tags that sources have moved.
package change

import (
	"encoding/json"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Kind is a kind of change of a tag.
type Kind string

// The kinds of changes.
const (
	New      Kind = "new"      // the destination did not have the tag
	Moved    Kind = "moved"    // it had the tag with another digest
	Kept     Kind = "kept"     // the source has moved an immutable tag; the destination keeps its image
	Vanished Kind = "vanished" // the source no longer lists the tag, or denies it; the destination keeps its image
)

// Change is the change of one tag.
type Change struct {
	Source      reference.Repository `json:"repository"`
	Tag         reference.Tag        `json:"tag"`
	Destination reference.Repository `json:"destination"`
	From        reference.Digest     `json:"from,omitzero"` // at the destination
	To          reference.Digest     `json:"to,omitzero"`   // at the destination
	// Refused is the digest at the source of an immutable tag, if that was not mirrored.
	Refused reference.Digest `json:"refused,omitzero"`
	// Bytes were copied, in the time Took, by the transfer that the tag had to wait for. Of
	// several tags of one transfer, the first has them.
	Bytes int64         `json:"bytes,omitempty"`
	Took  time.Duration `json:"took,omitempty"`
	At    time.Time     `json:"at"`
}

// Kind returns the kind of the change.
func (c Change) Kind() Kind {
	switch {
	case !c.Refused.IsZero():
		return Kept
	case c.To.IsZero():
		return Vanished
	case c.From.IsZero():
		return New
	}
	return Moved
}

// Image is the image at the source.
func (c Change) Image() string { return c.Source.String() + ":" + c.Tag.String() }

// batch is the content of a message.
type batch struct {
	Changes []json.RawMessage `json:"changes"`
}

// parse reads a message. It leaves out entries that are not changes: another program may have put it there.
func parse(data []byte) []Change {
	var b batch
	if json.Unmarshal(data, &b) != nil {
		return nil
	}
	var all []Change
	for _, raw := range b.Changes {
		var c Change
		if json.Unmarshal(raw, &c) == nil && !c.Source.IsZero() && !c.Tag.IsZero() {
			all = append(all, c)
		}
	}
	return all
}
