package prune

import (
	"fmt"
	"slices"

	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// keeping is which tags of a repository are never deleted.
type keeping struct {
	flag     *selection.Matcher   // --keep
	entries  []*selection.Matcher // of the list
	records  []holding.Repository // of the mirror name
	leftList bool
}

// keeping compiles what the list keeps of a repository.
func (s *Survey) keeping(destination reference.Repository) (keeping, error) {
	k := keeping{flag: s.Keep, leftList: s.LeftList}
	for _, e := range s.Entries {
		if e.Destination != destination {
			continue
		}
		var chosen selection.Selection
		if e.Selection != nil {
			chosen = *e.Selection
		}
		if named := (reference.Reference{Tag: e.Tag, Digest: e.Digest}).DestinationTag(); !named.IsZero() {
			chosen.List = []string{named.String()} // it has no other tag
		}
		m, err := chosen.Compile()
		if err != nil {
			return keeping{}, fmt.Errorf("the entry of %s: %w", e.Source, err)
		}
		k.entries = append(k.entries, m)
	}
	for _, r := range s.Holdings {
		if s.isOurs(r) && r.Destination == destination {
			k.records = append(k.records, r)
		}
	}
	return k, nil
}

// why returns why a tag is kept, or "". What the record says counts if no entry has the tag any
// more: a list that was cut by mistake keeps what it kept.
func (k keeping) why(tag reference.Tag) string {
	name := tag.String()
	switch {
	case k.flag != nil && k.flag.Keeps(name):
		return "it matches --keep"
	case slices.ContainsFunc(k.entries, func(m *selection.Matcher) bool { return m.Keeps(name) }):
		return "it matches keep of its entry in the list, or KEEP_TAGS"
	case k.leftList || slices.ContainsFunc(k.entries, func(m *selection.Matcher) bool { return m.Match(name) }):
		return ""
	case slices.ContainsFunc(k.records, func(r holding.Repository) bool { t, _ := r.Find(tag); return t.Kept }):
		return "its entry kept it, and has left the list; --left-list prunes it"
	}
	return ""
}
