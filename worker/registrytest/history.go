package registrytest

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// syntheticAge is the time between two tags of a synthetic repository. The last in lexical
// order is the newest.
const syntheticAge = time.Minute

// life is the time during which a tag named one digest.
type life struct {
	tag, digest string
	number      int       // in the order of pushes to all repositories
	start, end  time.Time // end is optional
	over        bool      // the tag was moved or removed
}

// dead reports whether the tag named something else, or nothing, at this time.
func (l life) dead(at time.Time) bool { return l.over || !l.end.IsZero() && !l.end.After(at) }

// history remembers when tags were pushed and removed, which the storage does not. Its zero
// value is ready for use.
type history struct {
	mu     sync.Mutex
	number int
	lives  map[string][]life // by repository, oldest first
}

// current returns the life of a tag that is not over, or nil. The caller holds mu.
func (h *history) current(repository, tag string) *life {
	for i := range h.lives[repository] {
		if l := &h.lives[repository][i]; l.tag == tag && !l.over {
			return l
		}
	}
	return nil
}

// tagged notes that a tag names a digest from now on.
func (h *history) tagged(repository, tag, dgst string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.current(repository, tag); l != nil {
		if l.digest == dgst {
			return
		}
		l.over, l.end = true, at
	}
	if h.lives == nil {
		h.lives = map[string][]life{}
	}
	h.number++
	h.lives[repository] = append(h.lives[repository], life{tag: tag, digest: dgst, number: h.number, start: at})
}

// untagged notes that a tag names nothing from now on.
func (h *history) untagged(repository, tag string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.current(repository, tag); l != nil {
		l.over, l.end = true, at
	}
}

func (h *history) change(repository, tag string, change func(*life)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.current(repository, tag)
	if l != nil {
		change(l)
	}
	return l != nil
}

// of returns a copy of a repository's lives.
func (h *history) of(repository string) []life {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lives[repository])
}

// pushed notes the tag of a manifest that was pushed with the OCI API.
func (r *Registry) pushed(request Request, status int, dgst string) {
	if request.Kind == KindManifestPut && status == http.StatusCreated && request.Reference != dgst {
		r.history.tagged(request.Repository, request.Reference, dgst, r.settings.now())
	}
}

// SetTagTime changes the time at which a tag was pushed. It returns false if the tag was not
// pushed since the start of the registry.
func (r *Registry) SetTagTime(repository, tag string, at time.Time) bool {
	return r.history.change(repository, tag, func(l *life) { l.start = at })
}

// ExpireTag sets the end of a tag as quay.io can: the bulk listing calls it dead from then on,
// the OCI API keeps it. It returns false if the tag was not pushed since the start of the
// registry.
func (r *Registry) ExpireTag(repository, tag string, at time.Time) bool {
	return r.history.change(repository, tag, func(l *life) { l.end = at })
}

// chronicle returns the tags of a repository, the newest first, and optionally the dead ones.
// It wraps ErrNotFound if there is no such repository.
func (r *Registry) chronicle(repository string, withDead bool) ([]life, error) {
	if s := r.synthetic(repository); s != nil {
		return s.lives, nil
	}
	tags, err := r.Tags(repository)
	if err != nil {
		return nil, err
	}
	now := r.settings.now()
	exists := make(map[string]bool, len(tags))
	for _, tag := range tags {
		exists[tag] = true
	}
	var lives []life
	for _, l := range r.history.of(repository) {
		if !l.over {
			if !exists[l.tag] {
				continue // deleted by the OCI API
			}
			delete(exists, l.tag)
		}
		if withDead || !l.dead(now) {
			lives = append(lives, l)
		}
	}
	for tag := range exists { // from an earlier start with the same directory
		lives = append(lives, life{tag: tag, start: defaultCreated})
	}
	for _, name := range r.liar(repository).names {
		lives = append(lives, life{tag: name, digest: r.liar(repository).digest, start: now})
	}
	slices.SortFunc(lives, func(a, b life) int {
		return cmp.Or(b.start.Compare(a.start), cmp.Compare(b.number, a.number), strings.Compare(a.tag, b.tag))
	})
	return lives, nil
}

func (s *synthetic) chronicle() []life {
	lives := make([]life, 0, len(s.tags))
	for i, tag := range slices.Backward(s.tags) {
		start := defaultCreated.Add(time.Duration(i) * syntheticAge)
		lives = append(lives, life{tag: tag, digest: s.digests[s.byTag[tag]], start: start})
	}
	return lives
}
