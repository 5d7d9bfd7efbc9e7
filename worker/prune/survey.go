package prune

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Survey finds the tags that may be deleted. It changes nothing, and sends GET and HEAD requests
// only.
type Survey struct {
	Registry *registry.Client
	Hosts    deletion.Hosts
	// Select returns the tags that an open entry of the list selects now.
	Select func(ctx context.Context, r message.Repository) ([]reference.Tag, error)
	// Holdings are the records of all mirror names.
	Holdings []holding.Repository
	Mirror   string // the mirror name
	// Destination is host[:port][/prefix]. Repositories outside it are not touched.
	Destination string
	Entries     []message.Repository // of the list
	Lacks       holding.Lacks        // of the list
	Grace       time.Duration
	Keep        *selection.Matcher // --keep: tags that are never deleted
	// LeftList extends the plan to tags that an entry kept before it left the list.
	LeftList bool
	Now      time.Time
	Progress func(done, all int) // counts repositories; optional
}

// Plan returns a plan of the tags that may be deleted.
func (s *Survey) Plan(ctx context.Context) (Plan, error) {
	p := Plan{
		Version: Version, Mirror: s.Mirror, Destination: s.Destination, Made: s.Now, Grace: s.Grace.String(),
		Repositories: []Repository{}, Left: []Left{},
	}
	ours := slices.DeleteFunc(slices.Clone(s.Holdings), func(r holding.Repository) bool { return !s.isOurs(r) })
	for i, r := range ours {
		if s.Progress != nil {
			s.Progress(i, len(ours))
		}
		recorded := images(r)
		p.Recorded += recorded
		found, left, err := s.repository(ctx, r)
		if ctx.Err() != nil {
			return Plan{}, context.Cause(ctx)
		}
		if err != nil {
			left = []Left{{Repository: r.Destination, Why: outcome.Reason(err)}}
		}
		p.Left = append(p.Left, left...)
		if len(found.Tags) == 0 {
			continue
		}
		found.Recorded = recorded
		p.Tags += len(found.Tags)
		for _, t := range found.Tags {
			p.Bytes += t.Bytes
		}
		p.Repositories = append(p.Repositories, found)
	}
	return p, nil
}

func (s *Survey) isOurs(r holding.Repository) bool {
	return r.Mirror == s.Mirror && Below(r.Destination, s.Destination)
}

// images counts the tags of images in a record.
func images(r holding.Repository) (n int) {
	for _, t := range r.Tags {
		if _, companion := selection.Companion(t.Name.String()); !companion {
			n++
		}
	}
	return n
}

// repository returns a repository's part of the plan, and the dropped tags that stay.
func (s *Survey) repository(ctx context.Context, r holding.Repository) (Repository, []Left, error) {
	var left []Left
	stays := func(tag reference.Tag, why string) {
		left = append(left, Left{Repository: r.Destination, Tag: tag, Why: why})
	}
	dropped := map[reference.Tag]holding.Tag{}
	for _, t := range r.Tags {
		if s.isDropped(t) {
			dropped[t.Name] = t
		}
	}
	if len(dropped) == 0 {
		return Repository{}, nil, nil
	}
	kept, err := s.keeping(r.Destination)
	if err != nil {
		return Repository{}, nil, err
	}
	wanted, err := s.wanted(ctx, r.Destination)
	if err != nil {
		return Repository{}, nil, err
	}
	for _, t := range sorted(dropped) {
		if why := cmp.Or(s.spared(r.Destination, t, wanted), kept.why(t.Name)); why != "" {
			stays(t.Name, why)
			delete(dropped, t.Name)
		}
	}
	if len(dropped) == 0 {
		return Repository{}, left, nil
	}
	found, err := s.choose(ctx, r.Destination, dropped, kept, stays)
	return found, left, err
}

func sorted(tags map[reference.Tag]holding.Tag) []holding.Tag {
	return slices.SortedFunc(maps.Values(tags), func(a, b holding.Tag) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
}

// isDropped reports whether the source or the list dropped the tag of an image before the grace
// period. Companions are dropped with their image.
func (s *Survey) isDropped(t holding.Tag) bool {
	_, companion := selection.Companion(t.Name.String())
	return !companion && !t.Dropped.IsZero() && s.Now.Sub(t.Dropped) >= s.Grace
}

// wanted returns the tags of a destination that open entries of the list select now. It asks their
// sources.
func (s *Survey) wanted(ctx context.Context, destination reference.Repository) (map[reference.Tag]bool, error) {
	wanted := map[reference.Tag]bool{}
	for _, e := range s.Entries {
		if e.Destination != destination || !e.Tag.IsZero() || !e.Digest.IsZero() || e.Selection != nil && len(e.Selection.List) > 0 {
			continue // Lacks knows the tags that an entry names
		}
		tags, err := s.Select(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("its source could not be listed: %w", err)
		}
		if len(tags) == 0 {
			return nil, fmt.Errorf("%s lists no tags that its entry selects; nothing of it is pruned", e.Source)
		}
		for _, tag := range tags {
			wanted[tag] = true
		}
	}
	return wanted, nil
}

// spared returns why a dropped tag stays, or "".
func (s *Survey) spared(destination reference.Repository, t holding.Tag, wanted map[reference.Tag]bool) string {
	switch {
	case wanted[t.Name]:
		return "the list has it again, and so has the source"
	case t.Why.IsOfList() && s.Lacks(destination, t.Name) == "", s.names(destination, t.Name):
		return "the list has it again"
	}
	for _, other := range s.Holdings {
		if other.Destination != destination || other.Mirror == s.Mirror {
			continue
		}
		if also, ok := other.Find(t.Name); ok && !s.isDropped(also) {
			return "the mirror " + other.Mirror + " has it, too"
		}
	}
	return ""
}

// names reports whether an entry of the list names the tag, rather than its repository.
func (s *Survey) names(destination reference.Repository, tag reference.Tag) bool {
	return slices.ContainsFunc(s.Entries, func(e message.Repository) bool {
		if e.Destination != destination {
			return false
		}
		if named := (reference.Reference{Tag: e.Tag, Digest: e.Digest}).DestinationTag(); !named.IsZero() {
			return named == tag
		}
		return e.Selection != nil && slices.Contains(e.Selection.List, tag.String())
	})
}

// recorded returns the recorded tags of a destination, of all mirror names, and the digests that
// they had earlier.
func (s *Survey) recorded(destination reference.Repository) (tags []reference.Tag, earlier []reference.Digest) {
	for _, r := range s.Holdings {
		if r.Destination == destination {
			for _, t := range r.Tags {
				tags, earlier = append(tags, t.Name), append(earlier, t.Earlier...)
			}
		}
	}
	return tags, earlier
}

// choose reads the destination, and returns the dropped tags that can be deleted, with the
// companions and manifests that go with them.
func (s *Survey) choose(ctx context.Context, destination reference.Repository, dropped map[reference.Tag]holding.Tag, kept keeping, stays func(reference.Tag, string)) (Repository, error) {
	recorded, earlier := s.recorded(destination)
	leaving := func(tag reference.Tag) bool { _, is := dropped[tag]; return is }
	c, err := read(ctx, s.Registry, destination, recorded, earlier, leaving)
	if err != nil {
		return Repository{}, fmt.Errorf("the destination could not be read: %w", err)
	}
	going := map[reference.Tag]bool{}
	for _, t := range sorted(dropped) {
		switch at, there := c.tags[t.Name]; {
		case !there: // nothing to delete
		case at != t.Digest:
			stays(t.Name, fmt.Sprintf("the destination has %s, which was not mirrored", at))
		default:
			going[t.Name] = true
		}
	}
	alone := s.Hosts.Alone(destination)
	needed := c.settle(going, earlier, alone, stays)
	tried := map[reference.Tag]bool{}
	for more := true; more; { // companions may have companions
		if more, err = c.accompany(ctx, going, needed, tried, kept); err != nil {
			return Repository{}, fmt.Errorf("the destination could not be read: %w", err)
		}
		needed = c.settle(going, earlier, alone, func(reference.Tag, string) {})
	}
	return c.plan(dropped, going, needed), nil
}

// keeping decides which tags of a repository are never deleted.
type keeping struct {
	flag     *selection.Matcher   // --keep
	entries  []*selection.Matcher // of the list
	records  []holding.Repository // of the mirror name
	leftList bool
}

// keeping compiles the rules of the list and of --keep for a repository.
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
			chosen.List = []string{named.String()} // the entry has no other tag
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

// why returns why a tag is kept, or "". If no entry has the tag any more, its record counts: a
// list that was truncated by mistake must not lead to deletions.
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
