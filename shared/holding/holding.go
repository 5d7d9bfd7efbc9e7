// Package holding records the tags that were mirrored to each destination repository: their digests,
// and since when the source or the list no longer has them. Only recorded tags may be pruned, so tags
// whose record is lost are never deleted.
package holding

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// Reason is why a tag is no longer mirrored.
type Reason string

// These reasons come from a listing of the source.
const (
	Unlisted   Reason = "the source no longer lists it"
	Unselected Reason = "its entry no longer selects it"
)

// These reasons come from the list and its namespaces.
const (
	Unnamed   Reason = "the list no longer names it"
	Unmatched Reason = "FILTER, or the tags of its entry, no longer match it"
	Unfound   Reason = "its namespace no longer lists the repository"
)

// IsOfList reports whether the reason comes from the list. Then only the list can end it.
func (r Reason) IsOfList() bool { return r == Unnamed || r == Unmatched || r == Unfound }

// Tag is a tag that was mirrored.
type Tag struct {
	Name   reference.Tag        `json:"tag"`
	Digest reference.Digest     `json:"digest"` // at the destination
	Source reference.Repository `json:"source"`
	// First is when the tag was first mirrored, and Last when its digest last changed.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Earlier are the digests that the tag had before, the newest last. The destination may
	// still have them, without a tag.
	Earlier []reference.Digest `json:"earlier,omitempty"`
	// Dropped is since when the source or the list does not have the tag, for the reason Why. It
	// is zero if they have it, or if that is not known.
	Dropped time.Time `json:"dropped,omitzero"`
	Why     Reason    `json:"why,omitempty"`
	// Kept is true if the last entry of the list that had the tag protects it from pruning. It
	// stays true when that entry leaves the list.
	Kept bool `json:"kept,omitempty"`
}

// Repository has the tags that were mirrored to a destination repository under one mirror name.
type Repository struct {
	Destination reference.Repository `json:"destination"`
	Mirror      string               `json:"mirror"`
	Listed      time.Time            `json:"listed,omitzero"` // when a run last listed the source, to the day
	Tags        []Tag                `json:"tags"`            // sorted by name

	written time.Time // by the broker's clock; zero if it was never written
}

// since returns the time of an observation, at least the time at which the record was last written. A
// worker's clock that is behind must not start the grace period too early.
func (r *Repository) since(at time.Time) time.Time {
	if at.Before(r.written) {
		return r.written
	}
	return at
}

// Find returns the record of a tag.
func (r Repository) Find(name reference.Tag) (Tag, bool) {
	i, found := r.search(name)
	if !found {
		return Tag{}, false
	}
	return r.Tags[i], true
}

func (r Repository) search(name reference.Tag) (int, bool) {
	return slices.BinarySearchFunc(r.Tags, name, func(t Tag, name reference.Tag) int {
		return cmp.Compare(t.Name.String(), name.String())
	})
}

// Put is a tag that a worker has seen at the destination.
type Put struct {
	Name   reference.Tag
	Digest reference.Digest
	Source reference.Repository
	Kept   bool // its entry protects it from pruning
}

// Listing is the tags that an entry of the list selects from a listing of its source.
type Listing struct {
	Source reference.Repository
	// Tags are the listed tags. The value is true if the entry selects the tag.
	Tags map[reference.Tag]bool
	// Whole is true if Tags are all tags of the source. A listing ends early if an entry needs
	// only the newest tags.
	Whole bool
	// Entry matches the tags that the entry selects, listed or not, and those that it protects.
	Entry *selection.Matcher
}

// Seen is a worker's observation of a destination repository.
type Seen struct {
	Put      []Put
	Listings []Listing
	At       time.Time
}

// maxEarlier is how many earlier digests of a tag are kept.
const maxEarlier = 10

// dayOld is the age of Listed at which an otherwise unchanged record is written.
const dayOld = 24 * time.Hour

// add adds an observation, and reports whether it changes the record.
func (r *Repository) add(seen Seen) (changed bool) {
	for _, l := range seen.Listings {
		if seen.At.Sub(r.Listed) >= dayOld {
			r.Listed, changed = seen.At, true
		}
		for i := range r.Tags {
			if t := &r.Tags[i]; t.Source == l.Source {
				dropped, kept := t.drop(l.lacks(t.Name), r.since(seen.At)), t.keep(l.Entry)
				changed = changed || dropped || kept
			}
		}
	}
	for _, p := range seen.Put {
		if r.put(p, seen.At) {
			changed = true
		}
	}
	return changed
}

// lacks returns why a tag is no longer mirrored, or "" if it is.
func (l Listing) lacks(name reference.Tag) Reason {
	switch wanted, listed := l.Tags[name]; {
	case wanted:
		return ""
	case !listed && l.Whole:
		return Unlisted
	}
	return Unselected
}

// drop notes why a tag is no longer mirrored, or, if why is "", that it is. The time of the first
// reason counts until the tag is mirrored again. Among the reasons of the list, the last one counts.
func (t *Tag) drop(why Reason, at time.Time) (changed bool) {
	switch {
	case why == "" && !t.Dropped.IsZero():
		t.Dropped, t.Why = time.Time{}, ""
	case why != "" && t.Dropped.IsZero():
		t.Dropped, t.Why = at, why
	case why != "" && t.Dropped.Sub(at) > dayOld: // an earlier worker's clock was ahead
		t.Dropped = at
	case why != t.Why && why.IsOfList() && t.Why.IsOfList():
		t.Why = why
	default:
		return false
	}
	return true
}

// keep notes whether an entry protects the tag. An entry that neither selects nor protects the tag
// changes nothing.
func (t *Tag) keep(entry *selection.Matcher) (changed bool) {
	if entry == nil {
		return false
	}
	keeps, before := entry.Keeps(t.Name.String()), t.Kept
	if keeps || entry.Match(t.Name.String()) {
		t.Kept = keeps
	}
	return t.Kept != before
}

// put notes a tag that the destination has.
func (r *Repository) put(p Put, at time.Time) (changed bool) {
	i, found := r.search(p.Name)
	if !found {
		r.Tags = slices.Insert(r.Tags, i, Tag{Name: p.Name, Digest: p.Digest, Source: p.Source, First: at, Last: at, Kept: p.Kept})
		return true
	}
	t := &r.Tags[i]
	if t.Digest != p.Digest {
		t.Earlier = append(slices.DeleteFunc(t.Earlier, func(d reference.Digest) bool { return d == p.Digest || d == t.Digest }), t.Digest)
		t.Earlier = t.Earlier[max(0, len(t.Earlier)-maxEarlier):]
	}
	if t.Digest != p.Digest || t.Source != p.Source {
		t.Digest, t.Source, t.Last, changed = p.Digest, p.Source, at, true
	}
	if t.Kept != p.Kept {
		t.Kept, changed = p.Kept, true
	}
	return t.drop("", at) || changed
}

const (
	// maxRecord is the largest packed record in bytes. A NATS server allows 1 MiB by default.
	maxRecord = 900 << 10
	// maxUnpacked is the largest unpacked record in bytes: some 300,000 tags.
	maxUnpacked = 128 << 20
)

// encode packs a record. If it has too many tags, encode leaves out the tags that were mirrored last,
// which are never pruned then. left is their number.
func (r Repository) encode() (data []byte, left int, err error) {
	all := r.Tags
	r.Tags = slices.Clone(all)
	slices.SortStableFunc(r.Tags, func(a, b Tag) int { return a.First.Compare(b.First) })
	oldest := r.Tags
	for n := len(oldest); ; n = n * 9 / 10 {
		r.Tags = slices.Clone(oldest[:n])
		slices.SortFunc(r.Tags, func(a, b Tag) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
		plain, err := json.Marshal(r)
		if err != nil {
			return nil, 0, err
		}
		var packed bytes.Buffer
		if err := pack(&packed, plain); err != nil {
			return nil, 0, err
		}
		if packed.Len() <= maxRecord {
			return packed.Bytes(), len(all) - n, nil
		}
	}
}

// packers are reused, because each needs 800 KB of memory.
var packers = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

func pack(to io.Writer, plain []byte) error {
	w := packers.Get().(*gzip.Writer)
	defer packers.Put(w)
	w.Reset(to)
	if _, err := w.Write(plain); err != nil {
		return err
	}
	return w.Close()
}

// unpackers are reused, because each needs 40 KB of memory.
var unpackers = sync.Pool{New: func() any { return new(gzip.Reader) }}

func unpack(data []byte) ([]byte, error) {
	r := unpackers.Get().(*gzip.Reader)
	defer unpackers.Put(r)
	if err := r.Reset(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxUnpacked))
}

// parse reads a record. It returns an error for anything else, which another program has stored.
func parse(data []byte) (Repository, error) {
	plain, err := unpack(data)
	var r Repository
	if err == nil {
		err = json.Unmarshal(plain, &r)
	}
	if err != nil || r.Destination.IsZero() || r.Mirror == "" {
		return Repository{}, fmt.Errorf("%w: %w", errMalformed, cmp.Or(err, errNoDestination))
	}
	r.Tags = slices.DeleteFunc(r.Tags, func(t Tag) bool {
		return t.Name.IsZero() || t.Digest.IsZero() || t.Source.IsZero()
	})
	slices.SortFunc(r.Tags, func(a, b Tag) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
	r.Tags = slices.CompactFunc(r.Tags, func(a, b Tag) bool { return a.Name == b.Name })
	return r, nil
}
