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

// entries record what sources have of the entries that are a whole repository. A tag that
// vanishes has not failed, but if all tags of an entry vanish, its repository has.
type entries struct {
	mu    sync.Mutex
	known map[compare.Entry]*entryState
}

// entryState is the state of an entry in this delivery.
type entryState struct {
	repository message.Repository // without images
	listed     bool               // in this delivery
	listing    holding.Listing    // without tags if the entry selects none
	found      bool               // in this or an earlier delivery, the source had one of its tags
	vanished   int                // tags, in this delivery
	invalid    error              // why the listing is not used
}

// note changes the state of the entry that the repository comes from.
func (e *entries) note(r message.Repository, change func(*entryState)) {
	if !compare.IsRepository(r) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
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

// unlisted notes tags that the source had and no longer lists. It looks up each of them, because a
// listing can leave out a tag if its pages change while they are read. If the source cannot be
// asked, or is away, the next run looks up the rest.
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

// judgeEntries records an entry as failed if its listing is invalid or if the source has none of
// its tags. In the repositories that are left for later, it sets Found if their entry is decided.
// An entry of a republished chunk counts only if this delivery has listed it.
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
		case s.repository.Found: // an earlier delivery has decided it
		case s.found || s.listed && s.vanished == 0:
			fine[s.repository.Source] = true
		case s.vanished > 0 && !unfinished && (s.listed || !e.delivery.Chunk.Republished):
			err = giveUp(s, resolve.AllDenied(s.repository.Source, s.vanished))
		}
		if err != nil {
			return err
		}
		// If a source denies all tags that it lists, its listing cannot be used.
		if len(s.listing.Tags) > 0 && s.invalid == nil && (s.found || s.vanished == 0) {
			e.delivery.Observer.Listed(s.repository, s.listing)
		}
	}
	for source := range fine {
		if !failed[source] { // otherwise, another entry for it has failed
			e.mirrored.add(source, source.String()) // its listing has not failed
		}
	}
	return nil
}

// mirrored are the images that the destination has, by the repository of their failure record.
type mirrored struct {
	mu           sync.Mutex
	repositories map[reference.Repository]map[string]bool
}

func (m *mirrored) add(repository reference.Repository, source string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.repositories[repository] == nil {
		m.repositories[repository] = map[string]bool{}
	}
	m.repositories[repository][source] = true
}

// remove forgets an image.
func (m *mirrored) remove(repository reference.Repository, source string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.repositories[repository], source)
}
