package consume

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
)

// changes are those of a delivery that are not recorded yet: copies do not wait for the
// broker.
type changes struct {
	recording sync.Mutex // held while some are recorded

	mu      sync.Mutex
	pending []change.Change
}

// Changed implements chunk.Observer. It logs the changes; the next report records them with
// the run. A worker that is killed before leaves them out.
func (d *delivery) Changed(changes []change.Change) {
	for _, c := range changes {
		text := "mirrored a new tag"
		switch c.Kind() {
		case change.Vanished, change.Kept:
			continue // logged with the reason
		case change.Moved:
			text = "mirrored a tag that has moved"
		}
		d.consumer.log.Info(text, "image", c.Image(), "destination", c.Destination.String(), "run", d.address.Run,
			"from", c.From.String(), "to", c.To.String(), "bytes", c.Bytes, "took", c.Took.Round(time.Millisecond))
	}
	d.changes.mu.Lock()
	defer d.changes.mu.Unlock()
	d.changes.pending = append(d.changes.pending, changes...)
}

// noteChanges stores the changes that are not recorded yet.
func (d *delivery) noteChanges(ctx context.Context) error {
	d.changes.recording.Lock()
	defer d.changes.recording.Unlock()
	d.changes.mu.Lock()
	pending := d.changes.pending
	d.changes.pending = nil
	d.changes.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	err := d.consumer.changes.Add(ctx, d.address.Name, d.address.Run, pending...)
	if err != nil { // some may be recorded twice then, which List makes one of
		d.changes.mu.Lock()
		d.changes.pending = slices.Concat(pending, d.changes.pending)
		d.changes.mu.Unlock()
	}
	return err
}

// seen are the images of a delivery, by repository.
type seen struct {
	mu           sync.Mutex
	repositories map[reference.Repository]*catalog.Repository // by source
	held         map[reference.Repository]holding.Seen        // by destination
	matchers     map[*selection.Selection]*selection.Matcher
}

// matcher returns the matcher of an entry, or nil if there is none: the planner has checked it.
// The mutex is held.
func (s *seen) matcher(entry message.Repository) *selection.Matcher {
	if m, known := s.matchers[entry.Selection]; known {
		return m
	}
	if s.matchers == nil {
		s.matchers = map[*selection.Selection]*selection.Matcher{}
	}
	var chosen selection.Selection
	if entry.Selection != nil {
		chosen = *entry.Selection
	}
	m, _ := chosen.Compile()
	s.matchers[entry.Selection] = m
	return m
}

// keeps reports whether an entry keeps a tag of the destination from being pruned. The mutex is
// held.
func (s *seen) keeps(entry message.Repository, tag reference.Tag) bool {
	if entry.Selection == nil || len(entry.Selection.Keep) == 0 {
		return false
	}
	m := s.matcher(entry)
	return m != nil && m.Keeps(tag.String())
}

// holdings returns the map of what destinations hold. The mutex is held.
func (s *seen) holdings() map[reference.Repository]holding.Seen {
	if s.held == nil {
		s.held = map[reference.Repository]holding.Seen{}
	}
	return s.held
}

// isHeld reports whether the destination has the image that was mirrored under a tag.
func isHeld(t catalog.Tag) bool {
	return !t.At.IsZero() && (t.State == run.Copied || t.State == run.Tagged || t.State == run.Unchanged)
}

// Seen implements chunk.Observer.
func (d *delivery) Seen(entry message.Repository, tag catalog.Tag) {
	d.seen.mu.Lock()
	defer d.seen.mu.Unlock()
	if d.seen.repositories == nil {
		d.seen.repositories = map[reference.Repository]*catalog.Repository{}
	}
	r := d.seen.repositories[entry.Source]
	if r == nil {
		r = &catalog.Repository{Source: entry.Source}
		d.seen.repositories[entry.Source] = r
	}
	r.Destination, r.Checked = entry.Destination, tag.Checked
	if tag.Name.IsZero() {
		r.Listed, r.Why = tag.Checked, tag.Why
		return
	}
	r.Tags = append(r.Tags, tag)
	if isHeld(tag) {
		held := d.seen.holdings()[entry.Destination]
		held.Put = append(held.Put, holding.Put{Name: tag.Name, Digest: tag.At, Source: entry.Source, Kept: d.seen.keeps(entry, tag.Name)})
		d.seen.held[entry.Destination] = held
	}
}

// Listed implements chunk.Observer.
func (d *delivery) Listed(entry message.Repository, listing holding.Listing) {
	d.seen.mu.Lock()
	defer d.seen.mu.Unlock()
	held := d.seen.holdings()[entry.Destination]
	listing.Entry = d.seen.matcher(entry)
	held.Listings = append(held.Listings, listing)
	d.seen.held[entry.Destination] = held
}

// Unlisted implements chunk.Observer. If the broker does not answer, the next run asks again.
func (d *delivery) Unlisted(ctx context.Context, entry message.Repository, listed []reference.Tag) []reference.Tag {
	gone, err := d.consumer.catalog.Vanished(ctx, d.address.Name, entry.Source, listed)
	if err != nil {
		d.consumer.log.Warn("tags that have vanished will be recorded by the next run", "error", err)
	}
	return gone
}

// Known implements chunk.Observer.
func (d *delivery) Known(ctx context.Context, entry message.Repository) ([]catalog.Tag, error) {
	known, err := d.consumer.catalog.Tags(ctx, d.address.Name, entry.Source)
	d.seen.mu.Lock()
	defer d.seen.mu.Unlock()
	if now := d.seen.repositories[entry.Source]; now != nil {
		known = append(known, now.Tags...)
	}
	return known, err
}

// expect reads the records of the repositories of a chunk, with one request. If that fails, each
// record is read when it is needed.
func (d *delivery) expect(ctx context.Context, c message.Chunk) {
	var sources []reference.Repository
	for _, r := range c.Repositories {
		sources = append(sources, r.Source)
	}
	if err := d.consumer.catalog.Fetch(ctx, d.address.Name, sources); err != nil {
		d.consumer.log.Debug("reading the records of repositories one by one", "error", err)
	}
}

// noteSeen stores what the worker has seen.
func (d *delivery) noteSeen(ctx context.Context) error {
	d.seen.mu.Lock()
	defer d.seen.mu.Unlock()
	if len(d.seen.repositories) > 0 {
		all := make([]catalog.Repository, 0, len(d.seen.repositories))
		for _, r := range d.seen.repositories {
			all = append(all, *r)
		}
		if err := d.consumer.catalog.Add(ctx, d.address.Name, all...); err != nil {
			return err
		}
		d.seen.repositories = nil
	}
	if len(d.seen.held) > 0 {
		for destination, held := range d.seen.held {
			held.At = d.consumer.now().UTC()
			d.seen.held[destination] = held
		}
		if err := d.consumer.holdings.Add(ctx, d.address.Name, d.seen.held); err != nil {
			return err
		}
		d.seen.held = nil
	}
	return nil
}
