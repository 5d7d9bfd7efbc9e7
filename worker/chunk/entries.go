package chunk

import (
	"context"
	"errors"
	"sync"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// entries follow what the source has of those entries of the list that are a repository.
// A tag that vanishes does not fail. If all of them do, the repository fails.
type entries struct {
	mu    sync.Mutex
	known map[compare.Entry]*entryState
}

// entryState is what is known of an entry.
type entryState struct {
	repository message.Repository // without images
	listed     bool               // in this delivery
	listing    holding.Listing    // with no tags if the entry selects none
	found      bool               // the source has one of its tags, as far as anybody has seen
	vanished   int                // in this delivery
	invalid    error              // names were listed that no tag can have
}

// note changes what is known of the entry that the repository comes from.
func (e *entries) note(r message.Repository, change func(*entryState)) {
	if !compare.IsRepository(r) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		e.known = map[compare.Entry]*entryState{}
	}
	s := e.known[compare.EntryOf(r)]
	if s == nil {
		r.Images = nil
		s = &entryState{repository: r, found: r.Found}
		e.known[compare.EntryOf(r)] = s
	}
	change(s)
}

// found notes that the source has an image.
func (e *entries) found(r message.Repository) {
	e.note(r, func(s *entryState) { s.found = true })
}

// vanished counts a tag that the source has listed and denies.
func (e *execution) vanished(r message.Repository, tag reference.Tag) {
	e.noteVanished(r, tag, "vanished: the source has listed the tag and denies it")
	e.entries.note(r, func(s *entryState) { s.vanished++ })
	e.count(run.Vanished, 1)
}

func (e *execution) noteVanished(r message.Repository, tag reference.Tag, why string) {
	e.log.Info(why, "image", failure.Source(r, tag))
	e.delivery.Observer.Changed([]change.Change{{Source: r.Source, Destination: r.Destination, Tag: tag, At: e.worker.now().UTC()}})
	e.note(r, message.Image{Tag: tag}, catalog.Tag{State: run.Vanished})
}

// unlisted notes the tags that the source had and does not list any more. It must deny them,
// too: a listing whose pages move while they are read can leave a tag out. What cannot be asked
// for now is asked for by the next run, and so is what a source denies that is away.
func (e *execution) unlisted(ctx context.Context, r message.Repository, listed []reference.Tag) {
	for _, tag := range e.delivery.Observer.Unlisted(ctx, r, listed) {
		err := e.Ask(ctx, r, r.Source, func() error {
			found, err := e.mirror.Registry.Look(e.work, r.Source, tag)
			if found.Pulled {
				e.Pulled()
			}
			return err
		})
		away := false
		if errors.Is(err, registry.ErrNotFound) {
			_, away = e.blamed(r, err)
		}
		switch {
		case err == nil:
		case errors.Is(err, registry.ErrNotFound) && !away:
			e.noteVanished(r, tag, "vanished: the source does not list the tag any more")
		default:
			e.log.Debug("a tag that is not listed any more was not looked up", "image", failure.Source(r, tag), "error", err)
			return
		}
	}
}

// judgeEntries decides on entries of which the source has denied all that was asked for, or has
// listed what is none, and notes in what is left for later which ones are decided. What
// somebody has republished was not listed just now.
func (e *execution) judgeEntries(ctx context.Context, left ...[]message.Repository) error {
	fine, failed := map[reference.Repository]bool{}, map[reference.Repository]bool{}
	giveUp := func(s *entryState, err error) error {
		failed[s.repository.Source] = true
		e.tally(func(p *progress) { p.images.Total++ })
		return e.giveUp(ctx, s.repository, attempt{err: err})
	}
	for key, s := range e.entries.known {
		unfinished := false
		for _, repositories := range left {
			for i := range repositories {
				if r := &repositories[i]; compare.IsRepository(*r) && compare.EntryOf(*r) == key {
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
		case s.vanished > 0 && !unfinished && (s.listed || !e.delivery.Chunk.Republished):
			err = giveUp(s, resolve.AllDenied(s.repository.Source, s.vanished))
		}
		if err != nil {
			return err
		}
		// A source that denies all that it has listed is no proof of what it has dropped.
		if len(s.listing.Tags) > 0 && s.invalid == nil && (s.found || s.vanished == 0) {
			e.delivery.Observer.Listed(s.repository, s.listing)
		}
	}
	for source := range fine {
		if !failed[source] { // it is in the list twice
			e.mirrored.add(source, source.String()) // it could be listed
		}
	}
	return nil
}
