// Package catalog stores the last seen state of each repository: its tags, their digests at source
// and destination, and their outcomes.
package catalog

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	// maxTags is how many tags a record has at most, so that it stays below some 400 KiB. It
	// keeps the tags that were looked at last.
	maxTags = 1500
	// maxWhy is the longest reason in bytes.
	maxWhy = 300
)

// Tag is the last seen state of a tag of a repository.
type Tag struct {
	Name reference.Tag `json:"tag"`
	// Source and At are the digests at the source and at the destination; zero if unknown.
	Source reference.Digest `json:"source,omitzero"`
	At     reference.Digest `json:"at,omitzero"`
	State  run.Outcome      `json:"state"`
	Why    string           `json:"why,omitempty"` // the reason why it was skipped or has failed
	// Until is when a waiting tag is old enough.
	Until time.Time `json:"until,omitzero"`
	// Pinned is true if the list names the image by its digest. Then the source need not have
	// the tag.
	Pinned bool `json:"pinned,omitempty"`
	// Checked is when a worker last looked at the tag, and Changed when At last changed; zero if
	// that is not known.
	Checked time.Time `json:"checked"`
	Changed time.Time `json:"changed,omitzero"`
}

// Repository is the last seen state of a repository.
type Repository struct {
	Source      reference.Repository `json:"source"`
	Destination reference.Repository `json:"destination"`
	// Checked is when a worker last looked at the repository or one of its tags; zero if no
	// worker has.
	Checked time.Time `json:"checked,omitzero"`
	// Planned is when a plan first had the repository; zero if Checked is set.
	Planned time.Time `json:"planned,omitzero"`
	// Listed is when the source was last asked for its tags. Why is the error, if that failed.
	Listed time.Time `json:"listed,omitzero"`
	Why    string    `json:"why,omitempty"`

	Tags []Tag `json:"tags"`           // sorted by name
	More bool  `json:"more,omitempty"` // older tags were left out
}

// Unseen reports whether no worker has looked at the repository yet.
func (r Repository) Unseen() bool { return r.Checked.IsZero() }

// Changed returns when a tag of the repository last changed; zero if that is not known.
func (r Repository) Changed() (last time.Time) {
	for _, t := range r.Tags {
		if t.Changed.After(last) {
			last = t.Changed
		}
	}
	return last
}

// Count returns the number of tags in a state.
func (r Repository) Count(state run.Outcome) (n int) {
	for _, t := range r.Tags {
		if t.State == state {
			n++
		}
	}
	return n
}

// vanished returns the tags that the source had and does not list now.
func (r Repository) vanished(listed []reference.Tag) (gone []reference.Tag) {
	known := map[reference.Tag]bool{}
	for _, t := range r.Tags {
		known[t.Name] = t.State != run.Vanished && !t.Pinned && !t.Source.IsZero()
	}
	for _, tag := range listed {
		delete(known, tag)
	}
	for _, t := range r.Tags {
		if known[t.Name] {
			gone = append(gone, t.Name)
		}
	}
	return gone
}

// merge adds a later observation.
func (r *Repository) merge(later Repository) {
	tags := map[reference.Tag]Tag{}
	for _, t := range r.Tags {
		tags[t.Name] = t
	}
	for _, t := range later.Tags {
		known, ok := tags[t.Name]
		if ok && known.Checked.After(t.Checked) {
			continue // another worker has looked at it later
		}
		if t.At.IsZero() { // the destination was not asked, or did not answer
			t.At = known.At
		}
		if t.Source.IsZero() && t.State != run.Vanished {
			t.Source = known.Source
		}
		t.Changed = known.Changed
		if t.At != known.At && (!known.At.IsZero() || t.State == run.Copied || t.State == run.Tagged) {
			t.Changed = t.Checked // otherwise, the destination had it before it was first looked at
		}
		t.Why = cut(t.Why)
		tags[t.Name] = t
	}
	if !later.Listed.Before(r.Listed) {
		r.Listed, r.Why = later.Listed, cut(later.Why)
	}
	r.Planned = time.Time{}
	r.Source, r.Destination = later.Source, later.Destination
	if later.Checked.After(r.Checked) {
		r.Checked = later.Checked
	}
	r.Tags = r.Tags[:0]
	for _, t := range tags {
		r.Tags = append(r.Tags, t)
	}
	if len(r.Tags) > maxTags {
		slices.SortFunc(r.Tags, func(a, b Tag) int { return b.Checked.Compare(a.Checked) })
		r.Tags, r.More = r.Tags[:maxTags], true
	}
	slices.SortFunc(r.Tags, func(a, b Tag) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
}

func cut(why string) string {
	if len(why) > maxWhy {
		return strings.ToValidUTF8(why[:maxWhy], "") + "…"
	}
	return why
}

// parse reads a record. It returns false for anything else, which another program has stored.
func parse(data []byte) (Repository, bool) {
	var r Repository
	if json.Unmarshal(data, &r) != nil || r.Source.IsZero() {
		return Repository{}, false
	}
	r.Tags = slices.DeleteFunc(append([]Tag{}, r.Tags...), func(t Tag) bool { return t.Name.IsZero() })
	return r, true
}
