package selection

import (
	"cmp"
	"slices"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Candidate is a tag that Match has passed.
type Candidate struct {
	Tag reference.Tag
	// Updated is when the upstream last changed the tag; zero where it tells no times.
	Updated time.Time
}

// Newest returns the candidates that Limit leaves, in this order:
//
//  1. by time, newest first, where every candidate has one;
//  2. where one of them has none, or two have the same: by semantic version,
//     newest first. A leading v is allowed, and what is missing counts as 0, so
//     that v1.2 is 1.2.0. Prereleases come right below their release: 2.0.0,
//     2.0.0-rc.2, 2.0.0-rc.1, 1.9.0;
//  3. names that are no version come after all that are;
//  4. by name, in byte order, where nothing else decides.
func (m *Matcher) Newest(c []Candidate) []Candidate {
	timed := !slices.ContainsFunc(c, func(c Candidate) bool { return c.Updated.IsZero() })
	ordered := make([]ranked, len(c))
	for i := range c {
		ordered[i] = ranked{Candidate: c[i]}
		ordered[i].version, _ = semver.NewVersion(c[i].Tag.String())
	}
	slices.SortFunc(ordered, func(a, b ranked) int {
		if timed && !a.Updated.Equal(b.Updated) {
			return b.Updated.Compare(a.Updated)
		}
		return compareVersions(a, b)
	})
	if m.limit > 0 {
		ordered = ordered[:min(m.limit, len(ordered))]
	}
	newest := make([]Candidate, len(ordered))
	for i := range ordered {
		newest[i] = ordered[i].Candidate
	}
	return newest
}

// ranked has the version of a candidate, nil where its tag is none.
type ranked struct {
	Candidate
	version *semver.Version
}

func compareVersions(a, b ranked) int {
	switch {
	case a.version != nil && b.version != nil:
		return cmp.Or(b.version.Compare(a.version), cmp.Compare(a.Tag.String(), b.Tag.String()))
	case a.version != nil:
		return -1
	case b.version != nil:
		return 1
	}
	return cmp.Compare(a.Tag.String(), b.Tag.String())
}
