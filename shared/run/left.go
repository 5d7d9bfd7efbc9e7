package run

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/subject"
)

// left is what a run has done at one registry, and what is left there.
type left struct {
	resolved, unresolved int // chunks: one of which any part is still to be looked up is unresolved
	images               int // looked up, and without an outcome
	handled              int // images with another outcome than unchanged
	pulls                int // made
}

// toPull estimates the pulls that are left: each image costs as much as those before
// it, and each unresolved chunk as much as the resolved ones. It reports true where
// there is more, and nothing to tell by how much.
func (l left) toPull() (n int, atLeast bool) {
	each := 1.0 // of an image; an index takes more
	if l.handled > 0 {
		each = float64(l.pulls) / float64(l.handled)
	}
	known := each * float64(l.images)
	all := known
	if l.resolved > 0 {
		all += (float64(l.pulls) + known) / float64(l.resolved) * float64(l.unresolved)
	}
	return int(math.Ceil(all)), l.images > 0 && l.handled == 0 || l.unresolved > 0 && l.resolved == 0
}

// leftovers tells what is left at each registry that has anything left, sorted by
// name. messages are the run's in the stream.
func (t *Tracker) leftovers(messages map[string]subject.Address) []Registry {
	unresolved := map[string]bool{} // chunks
	all := map[string]*left{}
	of := func(registry string) *left {
		if all[registry] == nil {
			all[registry] = &left{}
		}
		return all[registry]
	}
	chunks := map[string]string{} // with their registry
	for key, a := range messages {
		images := t.progress[key].Images
		of(a.Registry).images += images.Total - images.Ended()
		chunk := a.Registry + "." + a.Number()
		chunks[chunk] = a.Registry
		unresolved[chunk] = unresolved[chunk] || images.Total == 0
	}
	for key, p := range t.progress {
		registry, token, _ := strings.Cut(key, ".")
		chunks[registry+"."+subject.Address{Token: token}.Number()] = registry
		l := of(registry)
		l.pulls += p.Pulls
		l.handled += p.Images.Ended() - p.Images.Unchanged
	}
	for chunk, registry := range chunks {
		if unresolved[chunk] {
			of(registry).unresolved++
		} else {
			of(registry).resolved++
		}
	}
	rows := []Registry{}
	for registry, l := range all {
		name, ok := subject.Address{Registry: registry}.RegistryName()
		if n, atLeast := l.toPull(); ok && (n > 0 || atLeast) {
			rows = append(rows, Registry{Registry: name, ToPull: n, ToPullAtLeast: atLeast})
		}
	}
	slices.SortFunc(rows, func(a, b Registry) int { return cmp.Compare(a.Registry, b.Registry) })
	return rows
}
