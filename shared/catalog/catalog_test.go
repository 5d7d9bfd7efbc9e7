package catalog

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

const name = "default"

var (
	source      = reference.MustRepository("quay.io/osism/tool")
	destination = reference.MustRepository("registry.example.com/osism/tool")
	first       = reference.DigestOf([]byte("first"))
	second      = reference.DigestOf([]byte("second"))
	start       = time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
)

func seen(after time.Duration, tags ...Tag) Repository {
	for i := range tags {
		tags[i].Checked = start.Add(after)
	}
	return Repository{Source: source, Destination: destination, Checked: start.Add(after), Tags: tags}
}

func tag(name string, digest reference.Digest, state run.Outcome) Tag {
	return Tag{Name: reference.MustTag(name), Source: digest, At: digest, State: state}
}

func TestCatalog(t *testing.T) {
	s, err := Open(t.Context(), brokertest.Embedded(t))
	require.NoError(t, err)
	only := func() Repository {
		t.Helper()
		all, err := s.List(t.Context(), name)
		require.NoError(t, err)
		require.Len(t, all, 1)
		return all[0]
	}
	require.NoError(t, s.addOne(t.Context(), name, seen(0, tag("2", first, run.Copied), tag("1", first, run.Copied))))
	require.NoError(t, s.addOne(t.Context(), "other", seen(0, tag("9", first, run.Copied))))
	r := only()
	require.Len(t, r.Tags, 2)
	require.Equal(t, "1", r.Tags[0].Name.String())
	require.Equal(t, start, r.Changed())

	// An unchanged tag is only checked; a moved tag has changed.
	require.NoError(t, s.addOne(t.Context(), name, seen(time.Minute, tag("1", first, run.Unchanged), tag("2", second, run.Copied))))
	r = only()
	require.Equal(t, start.Add(time.Minute), r.Checked)
	require.Equal(t, start, r.Tags[0].Changed)
	require.Equal(t, start.Add(time.Minute), r.Tags[1].Changed)
	require.Equal(t, 1, r.Count(run.Unchanged))

	// A failure does not replace the digest at the destination.
	failed := Tag{Name: reference.MustTag("2"), State: run.Failed, Why: strings.Repeat("x", 1000)}
	require.NoError(t, s.addOne(t.Context(), name, seen(2*time.Minute, failed)))
	r = only()
	require.Equal(t, second, r.Tags[1].At)
	require.Equal(t, run.Failed, r.Tags[1].State)
	require.Less(t, len(r.Tags[1].Why), 400)

	// The record of a late worker does not replace a newer one.
	require.NoError(t, s.addOne(t.Context(), name, seen(time.Second, tag("2", first, run.Copied))))
	require.Equal(t, run.Failed, only().Tags[1].State)
}

// TestFirstLook: a tag that the destination had before a worker first looked at it has not changed then.
func TestFirstLook(t *testing.T) {
	var r Repository
	r.merge(seen(0, tag("1", first, run.Unchanged), tag("2", first, run.Kept), tag("3", first, run.Tagged)))
	require.Zero(t, r.Tags[0].Changed)
	require.Zero(t, r.Tags[1].Changed)
	require.Equal(t, start, r.Tags[2].Changed)
	r.merge(seen(time.Minute, tag("1", second, run.Unchanged)))
	require.Equal(t, start.Add(time.Minute), r.Tags[0].Changed, "another client has moved it")
}

func TestConcurrent(t *testing.T) {
	s, err := Open(t.Context(), brokertest.Embedded(t))
	require.NoError(t, err)
	var group sync.WaitGroup
	for n := range 16 {
		group.Go(func() {
			_ = s.addOne(t.Context(), name, seen(0, tag(fmt.Sprint("t", n), first, run.Copied)))
		})
	}
	group.Wait()
	all, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, all[0].Tags, 16)
}

func TestBounded(t *testing.T) {
	var r Repository
	var many []Tag
	for n := range maxTags + 10 {
		many = append(many, tag(fmt.Sprintf("t%05d", n), first, run.Copied))
	}
	r.merge(seen(0, many...))
	r.merge(seen(time.Minute, tag("t00001", second, run.Copied)))
	require.Len(t, r.Tags, maxTags)
	require.True(t, r.More)
	require.True(t, len(r.Tags) > 0 && r.Tags[0].Name.String() <= "t00001")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"source":"quay.io/a/b","tags":[{"tag":"1","state":"copied"},{"tag":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, ok := parse(data); ok {
			r.merge(seen(0, tag("1", first, run.Copied)))
		}
	})
}

// TestReadBefore: a record that another process has changed since it was read is not overwritten.
func TestReadBefore(t *testing.T) {
	b := brokertest.Embedded(t)
	s, err := Open(t.Context(), b)
	require.NoError(t, err)
	other, err := Open(t.Context(), b)
	require.NoError(t, err)
	require.NoError(t, s.addOne(t.Context(), name, seen(0, tag("1", first, run.Copied))))
	before, err := s.Tags(t.Context(), name, source)
	require.NoError(t, err)
	require.NoError(t, other.addOne(t.Context(), name, seen(time.Second, tag("2", first, run.Copied))))
	require.NoError(t, s.addOne(t.Context(), name, seen(2*time.Second, tag("0", first, run.Copied))))
	require.Equal(t, "1", before[0].Name.String())
	after, err := s.Tags(t.Context(), name, source)
	require.NoError(t, err)
	require.Len(t, after, 3)
	require.NoError(t, s.addOne(t.Context(), name, seen(3*time.Second, tag("0", second, run.Copied))))
	require.Equal(t, first, after[0].At)
	again, err := other.Tags(t.Context(), name, source)
	require.NoError(t, err)
	require.Len(t, again, 3)
	require.Equal(t, second, again[0].At)
}

// TestPlan: a planned repository is listed before a worker has looked at it.
func TestPlan(t *testing.T) {
	s, err := Open(t.Context(), brokertest.Embedded(t))
	require.NoError(t, err)
	other := Repository{Source: reference.MustRepository("quay.io/osism/other"), Destination: destination, Planned: start, Tags: []Tag{}}
	planned := Repository{Source: source, Destination: destination, Planned: start, Tags: []Tag{}}
	require.NoError(t, s.addOne(t.Context(), name, seen(time.Minute, tag("1", first, run.Copied))))
	require.NoError(t, s.Plan(t.Context(), name, []Repository{planned, other, other}))
	require.NoError(t, s.Plan(t.Context(), name, []Repository{planned, other}))
	all, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.True(t, all[0].Unseen())
	require.Equal(t, other, all[0])
	require.False(t, all[1].Unseen())
	require.Len(t, all[1].Tags, 1)

	// A failed listing is recorded with its error. The next listing that succeeds removes the
	// error.
	failed := Repository{Source: other.Source, Destination: destination, Checked: start, Listed: start, Why: strings.Repeat("denied ", maxWhy)}
	require.NoError(t, s.addOne(t.Context(), name, failed))
	all, err = s.List(t.Context(), name)
	require.NoError(t, err)
	require.False(t, all[0].Unseen())
	require.Zero(t, all[0].Planned)
	require.Less(t, len(all[0].Why), maxWhy+len("…")+1)
	require.Contains(t, all[0].Why, "denied")
	require.NoError(t, s.addOne(t.Context(), name, Repository{Source: other.Source, Destination: destination, Checked: start.Add(time.Second), Listed: start.Add(time.Second)}))
	all, err = s.List(t.Context(), name)
	require.NoError(t, err)
	require.Empty(t, all[0].Why)
}

// TestVanished: only tags that the source has had vanish, each once.
func TestVanished(t *testing.T) {
	s, err := Open(t.Context(), brokertest.Embedded(t))
	require.NoError(t, err)
	gone := func(listed ...string) (names []string) {
		t.Helper()
		var has []reference.Tag
		for _, name := range listed {
			has = append(has, reference.MustTag(name))
		}
		tags, err := s.Vanished(t.Context(), name, source, has)
		require.NoError(t, err)
		for _, tag := range tags {
			names = append(names, tag.String())
		}
		return names
	}
	require.Empty(t, gone("1"), "nothing is known of the repository")
	pinned := tag("sha256-0123456789ab", first, run.Copied)
	pinned.Pinned = true
	require.NoError(t, s.addOne(t.Context(), name, seen(time.Minute, tag("1", first, run.Copied), tag("2", first, run.Failed), tag("3", first, run.Skipped), pinned)))
	require.Equal(t, []string{"2", "3"}, gone("1", "4"))
	require.NoError(t, s.addOne(t.Context(), name, seen(2*time.Minute, tag("2", reference.Digest{}, run.Vanished))))
	require.Equal(t, []string{"3"}, gone("1"))
	// Tags that entries name are looked up in each run: a tag that the source has never had, or has
	// lacked since, does not vanish again.
	require.NoError(t, s.addOne(t.Context(), name, seen(2*time.Minute+time.Second, tag("2", reference.Digest{}, run.Failed), tag("5", reference.Digest{}, run.Failed))))
	require.Equal(t, []string{"3"}, gone("1"))
	// One that comes back can vanish again.
	require.NoError(t, s.addOne(t.Context(), name, seen(3*time.Minute, tag("2", first, run.Unchanged))))
	require.Equal(t, []string{"2", "3"}, gone("1"))
}
