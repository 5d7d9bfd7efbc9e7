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
	// Refused is the digest that the source has given an immutable tag, and that was not mirrored.
	Refused reference.Digest `json:"refused,omitzero"`
	// Bytes and Took are the size and duration of the transfer. If several tags share a
	// transfer, only the first has them.
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

// Image returns the name of the image at the source.
func (c Change) Image() string { return c.Source.String() + ":" + c.Tag.String() }

// batch is the content of a message.
type batch struct {
	Changes []json.RawMessage `json:"changes"`
}

// parse reads a message. It leaves out entries that are not changes, which another program has stored.
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

// Report is the changes of a run in the JSON output. Its fields must stay.
type Report struct {
	Run     string     `json:"run"`
	Changes []reported `json:"changes"`
	More    int        `json:"more"` // changes that are left out
}

// reported is a change in the JSON output.
type reported struct {
	Kind        Kind      `json:"kind"`
	Image       string    `json:"image"`       // quay.io/osism/osism:1.0
	Destination string    `json:"destination"` // registry.example.com/osism/osism:1.0
	From        string    `json:"from"`        // digests at the destination; empty if it had or has none
	To          string    `json:"to"`
	Refused     string    `json:"refused,omitempty"` // digest that the source has given an immutable tag
	Bytes       int64     `json:"bytes"`
	Seconds     float64   `json:"seconds"`
	At          time.Time `json:"at"`
}

// NewReport returns the report of a run. more is the number of changes that are left out.
func NewReport(run string, changes []Change, more int) Report {
	r := Report{Run: run, Changes: []reported{}, More: more}
	for _, c := range changes {
		r.Changes = append(r.Changes, reported{
			Kind: c.Kind(), Image: c.Image(), Destination: c.Destination.String() + ":" + c.Tag.String(),
			From: c.From.String(), To: c.To.String(), Refused: c.Refused.String(), Bytes: c.Bytes, Seconds: c.Took.Round(time.Millisecond).Seconds(), At: c.At,
		})
	}
	return r
}
