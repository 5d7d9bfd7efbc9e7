package chunk

import (
	"context"
	"sync"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// entries follow what the source has of those entries of the list that are a repository.
// A tag that vanishes is no failure; where all of them do, the repository is one.
type entries struct {
	mu    sync.Mutex
	known map[entry]*standingOf
}

// entry is one of the list.
type entry struct {
	source, destination reference.Repository
	selection           *selection.Selection
}

// standingOf is what is known of an entry.
type standingOf struct {
	repository message.Repository // without images
	listed     bool               // in this delivery
	found      bool               // the source has one of its tags, as far as anybody has seen
	vanished   int                // in this delivery
	invalid    error              // names were listed that no tag can have
}

// whole tells whether the entry names neither a tag nor a digest.
func whole(r message.Repository) bool { return r.Tag.IsZero() && r.Digest.IsZero() }

// open tells whether the entry stands for as many tags as there are, rather than for
// tags that it names.
func open(r message.Repository) bool {
	return whole(r) && (r.Selection == nil || len(r.Selection.List) == 0)
}

func entryOf(r message.Repository) entry { return entry{r.Source, r.Destination, r.Selection} }

// note changes what is known of the entry that the repository comes from.
func (e *entries) note(r message.Repository, change func(*standingOf)) {
	if !whole(r) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		e.known = map[entry]*standingOf{}
	}
	s := e.known[entryOf(r)]
	if s == nil {
		r.Images = nil
		s = &standingOf{repository: r, found: r.Found}
		e.known[entryOf(r)] = s
	}
	change(s)
}

// found notes that the source has an image.
func (e *entries) found(r message.Repository) {
	e.note(r, func(s *standingOf) { s.found = true })
}

// vanished counts a tag that the source has listed and denies.
func (t *task) vanished(r message.Repository, tag reference.Tag) {
	t.log.Info("vanished: the source has listed the tag and denies it", "image", failure.Source(r, tag))
	t.entries.note(r, func(s *standingOf) { s.vanished++ })
	t.count("vanished", 1, func(p *progress) { p.images.Vanished++ })
}

// judge decides on entries of which the source has denied all that was asked for, or has
// listed what is none, and notes in what is left for later which ones are decided. What
// somebody has republished was not listed just now.
func (t *task) judge(ctx context.Context, left ...[]message.Repository) error {
	fine, failed := map[reference.Repository]bool{}, map[reference.Repository]bool{}
	giveUp := func(s *standingOf, err error) error {
		failed[s.repository.Source] = true
		t.note(func(p *progress) { p.images.Total++ })
		return t.giveUp(ctx, s.repository, try{err: err})
	}
	for key, s := range t.entries.known {
		unfinished := false
		for _, repositories := range left {
			for i := range repositories {
				if r := &repositories[i]; whole(*r) && entryOf(*r) == key {
					r.Found, unfinished = s.found || s.invalid != nil, true
				}
			}
		}
		var err error
		switch {
		case s.invalid != nil:
			err = giveUp(s, s.invalid)
		case s.repository.Found: // this was decided before
		case s.found || s.listed && s.vanished == 0:
			fine[s.repository.Source] = true
		case s.vanished > 0 && !unfinished && (s.listed || !t.Chunk.Republished):
			err = giveUp(s, resolve.AllDenied(s.repository.Source, s.vanished))
		}
		if err != nil {
			return err
		}
	}
	for source := range fine {
		if !failed[source] { // it is in the list twice
			t.mirrored.add(source, source.String()) // it could be listed
		}
	}
	return nil
}
