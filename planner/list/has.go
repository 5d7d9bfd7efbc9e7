package list

import (
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// Has returns a function that reports whether the list has an image or, for a reference
// without tag and digest, a whole repository. An entry for a whole repository has the tags
// that its selection matches. Its limit does not count, because only the source knows which
// tags are the newest. The list has a tag that belongs to another image, such as a
// signature, if it has any image of that repository.
func (l List) Has() func(reference.Reference) bool {
	type whole struct {
		matchers []*selection.Matcher
		exact    map[reference.Reference]bool
	}
	known := map[reference.Repository]*whole{}
	for _, e := range l.Entries {
		w := known[e.Repository]
		if w == nil {
			w = &whole{exact: map[reference.Reference]bool{}}
			known[e.Repository] = w
		}
		w.exact[e.Reference] = true
		if !e.Tag.IsZero() || !e.Digest.IsZero() {
			continue
		}
		if m, err := e.Selection.Compile(); err == nil { // Parse has checked it
			w.matchers = append(w.matchers, m)
		}
	}
	return func(r reference.Reference) bool {
		w := known[r.Repository]
		if w == nil {
			return false
		}
		if w.exact[r] {
			return true
		}
		if r.Tag.IsZero() || !r.Digest.IsZero() {
			return false
		}
		if _, companion := selection.Companion(r.Tag.String()); companion {
			return true
		}
		for _, m := range w.matchers {
			if m.Match(r.Tag.String()) {
				return true
			}
		}
		return false
	}
}
