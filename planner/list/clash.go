package list

import (
	"fmt"
	"slices"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// shareKeep gives each entry the keep expressions of all entries with the same destination. Otherwise,
// one entry could give up what another one keeps.
func shareKeep(entries []Entry) {
	kept := map[reference.Repository][]string{}
	for _, e := range entries {
		for _, text := range e.Selection.Keep {
			if !slices.Contains(kept[e.Destination], text) {
				kept[e.Destination] = append(kept[e.Destination], text)
			}
		}
	}
	for i := range entries {
		entries[i].Selection.Keep = kept[entries[i].Destination]
	}
}

// unique drops the entries that repeat an earlier one.
func unique(entries []Entry) (kept []Entry, duplicates []problem) {
	type identity struct {
		name        string
		destination reference.Repository
		selection   string
	}
	first := make(map[identity]int, len(entries))
	kept = make([]Entry, 0, len(entries))
	for _, e := range entries {
		id := identity{e.String(), e.Destination, e.Selection.Hash()}
		if line, again := first[id]; again {
			duplicates = append(duplicates, problem{Line: e.Line, Message: fmt.Sprintf("%s is already in line %d; it is mirrored once", e, line)})
			continue
		}
		first[id] = e.Line
		kept = append(kept, e)
	}
	return kept, duplicates
}

// clashes finds entries that would overwrite each other at the destination, as far as the list alone
// shows.
func clashes(entries []Entry) []problem {
	c := clash{
		owner: map[reference.Repository]*Entry{}, every: map[reference.Repository]*Entry{}, patterns: map[reference.Repository][]pattern{},
		selected: map[target]*Entry{}, claimed: map[target]*Entry{},
	}
	own := make([]*Entry, 0, len(entries))
	for i := range entries {
		if e := &entries[i]; !c.foreign(e) {
			own = append(own, e)
		}
	}
	for _, e := range own {
		if tags := e.tags(); len(tags) > 0 {
			c.claim(e, tags)
		} else {
			c.choose(e)
		}
	}
	for _, e := range own {
		c.against(e)
	}
	return c.problems
}

type clash struct {
	owner    map[reference.Repository]*Entry    // by repository at the destination
	every    map[reference.Repository]*Entry    // entries for every tag, by repository at the destination
	patterns map[reference.Repository][]pattern // entries whose tags only the source knows
	selected map[target]*Entry                  // the same, by selection
	claimed  map[target]*Entry                  // entries that name tags, by tag
	problems []problem
}

// target is a tag, or the hash of a selection of tags, at the destination.
type target struct {
	repository reference.Repository
	tag        string
}

type pattern struct {
	*Entry
	matcher *selection.Matcher
}

func (c *clash) fail(e *Entry, format string, args ...any) {
	c.problems = append(c.problems, problem{Line: e.Line, Message: fmt.Sprintf(format, args...)})
}

// itself is the message for an entry whose destination is its source. If prune deleted an image there,
// it would be lost.
const itself = "%s would be mirrored to itself; set MIRROR_DEST_URL, or destination, to another place"

// foreign reports whether the destination of an entry belongs to another repository or is its source.
func (c *clash) foreign(e *Entry) bool {
	if e.Destination == e.Repository {
		c.fail(e, itself, e.Repository)
		return true
	}
	first, taken := c.owner[e.Destination]
	if !taken {
		c.owner[e.Destination] = e
		return false
	}
	if first.Repository == e.Repository {
		return false
	}
	c.fail(e, "%s and %s in line %d would both be mirrored to %s", e.Repository, first.Repository, first.Line, e.Destination)
	return true
}

func (c *clash) claim(e *Entry, tags []string) {
	for _, tag := range tags {
		t := target{e.Destination, tag}
		first, taken := c.claimed[t]
		if !taken {
			c.claimed[t] = e
			continue
		}
		if why := differ(*e, *first); why != "" {
			c.fail(e, "%s and %s in line %d would overwrite each other as %s:%s%s", e, first, first.Line, e.Destination, tag, why)
		}
	}
}

func (c *clash) choose(e *Entry) {
	chosen := e.Selection.Tags()
	t := target{e.Destination, chosen.Hash()}
	if first, taken := c.selected[t]; taken {
		if why := differ(*e, *first); why != "" {
			c.fail(e, "%s and %s in line %d choose the same tags%s", e, first, first.Line, why)
		}
		return
	}
	c.selected[t] = e
	if chosen.IsZero() {
		c.every[e.Destination] = e
	}
	if m, err := chosen.Compile(); err == nil { // valid, as Parse has checked
		c.patterns[e.Destination] = append(c.patterns[e.Destination], pattern{e, m})
	}
}

// against compares an entry with the entries whose tags only the source knows.
func (c *clash) against(e *Entry) {
	tags := e.tags()
	if all, ok := c.every[e.Destination]; ok && len(tags) == 0 && !e.Selection.Tags().IsZero() {
		if why := differ(*e, *all); why != "" {
			c.fail(e, "%s and %s in line %d, which selects every tag, would overwrite each other%s", e, all, all.Line, why)
		}
	}
	for _, p := range c.patterns[e.Destination] {
		if why := differ(*e, *p.Entry); why != "" && e.named() && slices.ContainsFunc(tags, p.matcher.Match) {
			c.fail(e, "%s names a tag that %s in line %d mirrors, too; they would overwrite each other%s", e, p, p.Line, why)
		}
	}
}

// tags returns the tags that an entry names, or nil if only the source knows them.
func (e Entry) tags() []string {
	if tag := e.DestinationTag(); !tag.IsZero() {
		return []string{tag.String()}
	}
	return e.Selection.List
}

// named reports whether the tags of an entry are tags of the source. A tag that is made of a digest is
// not.
func (e Entry) named() bool { return !e.Tag.IsZero() || e.Digest.IsZero() }

// differ returns the difference between what two entries mirror under the same tag, or "".
func differ(a, b Entry) string {
	switch {
	case a.Digest != b.Digest:
		return ": they differ in the digest"
	case !slices.Equal(a.Selection.Platforms, b.Selection.Platforms):
		return ": they differ in the platforms"
	case a.Selection.WithoutAttestations != b.Selection.WithoutAttestations:
		return ": they differ in the attestations"
	case a.Selection.MinAge != b.Selection.MinAge:
		return ": they differ in the minimum age"
	case a.Selection.Backup != b.Selection.Backup:
		return ": they differ in their backups"
	case !slices.Equal(a.Selection.Immutable, b.Selection.Immutable):
		return ": they differ in what is immutable"
	}
	return ""
}
