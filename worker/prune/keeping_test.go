package prune_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestKeep: tags that the list keeps stay, even if a part of the list is lost. The entries that
// have a tag decide about it.
func TestKeep(t *testing.T) {
	entry := func(s selection.Selection) message.Repository {
		return message.Repository{Source: source, Selection: &s}
	}
	lts := selection.Selection{Keep: []string{"lts"}}
	for name, test := range map[string]struct {
		entries  []message.Repository
		kept     bool // recorded
		leftList bool
		planned  []string
		says     string
	}{
		"kept by its entry":         {entries: []message.Repository{entry(lts)}, planned: []string{"old"}, says: "matches keep of its entry"},
		"by another entry":          {entries: []message.Repository{entry(selection.Selection{}), entry(lts)}, planned: []string{"old"}, says: "matches keep"},
		"by one that names its tag": {entries: []message.Repository{{Source: source, Tag: reference.MustTag("x"), Selection: &lts}}, planned: []string{"old"}, says: "matches keep"},
		"not kept any more":         {entries: []message.Repository{entry(selection.Selection{})}, kept: true, planned: []string{"lts-1", "old"}},
		"the entry is lost":         {kept: true, planned: []string{"old"}, says: "--left-list"},
		"one of two is lost":        {entries: []message.Repository{entry(selection.Selection{Include: []string{"kept"}})}, kept: true, planned: []string{"old"}, says: "--left-list"},
		"one that names its tag":    {entries: []message.Repository{{Source: source, Tag: reference.MustTag("x")}}, kept: true, planned: []string{"old"}, says: "--left-list"},
		"given up":                  {kept: true, leftList: true, planned: []string{"lts-1", "old"}},
		"the entry stays, whatever": {entries: []message.Repository{entry(lts)}, kept: true, leftList: true, planned: []string{"old"}, says: "matches keep"},
		"never kept":                {planned: []string{"lts-1", "old"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.image("kept", "kept", 0)
			s.image("lts-1", "lts-1", 40)
			s.image("old", "old", 40)
			i := slices.IndexFunc(s.Holdings[0].Tags, func(t holding.Tag) bool { return t.Name.String() == "lts-1" })
			s.Holdings[0].Tags[i].Kept = test.kept
			s.Entries, s.LeftList = test.entries, test.leftList
			for i := range s.Entries {
				s.Entries[i].Destination = s.repository(tool)
			}
			p := s.plan()
			require.Equal(t, test.planned, tags(p))
			if test.says != "" {
				require.Contains(t, why(p, "lts-1"), test.says)
			}
		})
	}
}

// TestKeepSignature: a signature that is kept by name stays without its image.
func TestKeepSignature(t *testing.T) {
	s := newSite(t)
	old := s.image("old", "old", 40)
	signature := registrytest.SignatureTag(old)
	_ = must(s.to.PushSignature(tool, old))(t)
	p := s.plan()
	require.Equal(t, []string{"old", signature}, tags(p))
	s.Entries[0].Selection = &selection.Selection{Keep: []string{"sha256-"}}
	require.Equal(t, []string{"old"}, tags(s.plan()))
	done, left, err := s.execute(p)
	require.NoError(t, err)
	require.Equal(t, 1, done.Skipped)
	require.Equal(t, []string{signature}, left)
}
