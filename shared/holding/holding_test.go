package holding

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

const mirror = "default"

var (
	source      = reference.MustRepository("quay.io/osism/tool")
	destination = reference.MustRepository("registry.example.com/osism/tool")
	one         = reference.DigestOf([]byte("one"))
	two         = reference.DigestOf([]byte("two"))
	start       = time.Now().UTC().Truncate(time.Second)
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), brokertest.Embedded(t), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return s
}

func (s *Store) only(t *testing.T) Repository {
	t.Helper()
	all, err := s.List(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	return all[0]
}

func (s *Store) find(t *testing.T, tag string) Tag {
	t.Helper()
	found, ok := s.only(t).Find(reference.MustTag(tag))
	require.True(t, ok, tag)
	return found
}

func (s *Store) add(t *testing.T, days int, seen Seen) {
	t.Helper()
	seen.At = at(days)
	require.NoError(t, s.addOne(t.Context(), mirror, destination, seen))
}

func at(days int) time.Time { return start.Add(time.Duration(days) * 24 * time.Hour) }

func put(tag string, digest reference.Digest) Put {
	return Put{Name: reference.MustTag(tag), Digest: digest, Source: source}
}

func listing(tags map[string]bool) []Listing {
	l := Listing{Source: source, Tags: map[reference.Tag]bool{}, Whole: true}
	for tag, wanted := range tags {
		l.Tags[reference.MustTag(tag)] = wanted
	}
	return []Listing{l}
}

// TestDropped: a tag is dropped since the first listing without it, until a listing has it again.
func TestDropped(t *testing.T) {
	s := open(t)
	both := listing(map[string]bool{"1": true, "2": true})
	s.add(t, 0, Seen{Listings: both, Put: []Put{put("1", one), put("2", two)}})
	require.Zero(t, s.find(t, "2").Dropped)
	s.add(t, 1, Seen{Listings: listing(map[string]bool{"1": true})})
	require.Equal(t, at(1), s.find(t, "2").Dropped)
	require.Equal(t, Unlisted, s.find(t, "2").Why)
	s.add(t, 5, Seen{Listings: listing(map[string]bool{"1": true, "2": false})})
	require.Equal(t, at(1), s.find(t, "2").Dropped, "the first reason counts")
	s.add(t, 9, Seen{Listings: both})
	require.Zero(t, s.find(t, "2").Dropped)
	s.add(t, 10, Seen{Listings: listing(map[string]bool{"1": true, "2": false})})
	require.Equal(t, at(10), s.find(t, "2").Dropped)
	require.Equal(t, Unselected, s.find(t, "2").Why)
	s.add(t, 11, Seen{Put: []Put{put("2", one)}})
	require.Zero(t, s.find(t, "2").Dropped, "another entry mirrors it")
	require.Equal(t, []reference.Digest{two}, s.find(t, "2").Earlier)

	// The listing of another source, or an incomplete listing, does not drop tags.
	other := listing(map[string]bool{"9": true})
	other[0].Source = reference.MustRepository("quay.io/osism/other")
	s.add(t, 12, Seen{Listings: other})
	require.Zero(t, s.find(t, "1").Dropped)
}

// TestClock: with a clock that is behind, no tag is dropped before its record was last written. A time from
// a clock that was ahead is corrected.
func TestClock(t *testing.T) {
	s := open(t)
	only := listing(map[string]bool{"1": true})
	s.add(t, 0, Seen{Put: []Put{put("1", one), put("2", two), put("3", two)}})
	s.add(t, -20_000, Seen{Listings: only})
	require.False(t, s.find(t, "2").Dropped.Before(start), "%s", s.find(t, "2").Dropped)
	none := func(reference.Repository, reference.Tag) Reason { return Unnamed }
	require.NoError(t, s.MarkList(t.Context(), mirror, none, at(-20_000)))
	require.True(t, s.find(t, "1").Dropped.IsZero() || !s.find(t, "1").Dropped.Before(start))

	s.add(t, 0, Seen{Put: []Put{put("2", two)}})
	s.add(t, 20_000, Seen{Listings: only})
	require.Equal(t, at(20_000), s.find(t, "2").Dropped)
	s.add(t, 1, Seen{Listings: only})
	require.Equal(t, at(1), s.find(t, "2").Dropped)
}

// TestMarkList: tags that the list no longer names are dropped, until it names them again.
func TestMarkList(t *testing.T) {
	s := open(t)
	s.add(t, 0, Seen{Put: []Put{put("1", one), put("2", two)}})
	require.NoError(t, s.addOne(t.Context(), "other", destination, Seen{Put: []Put{put("1", one)}, At: at(0)}))
	mark := func(days int, why Reason) {
		t.Helper()
		require.NoError(t, s.MarkList(t.Context(), mirror, func(_ reference.Repository, tag reference.Tag) Reason {
			if tag.String() == "1" {
				return ""
			}
			return why
		}, at(days)))
	}
	dropped := func(of string) time.Time {
		all, err := s.List(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 2)
		for _, r := range all {
			found, ok := r.Find(reference.MustTag("2"))
			require.Equal(t, r.Mirror == mirror, ok)
			if one, _ := r.Find(reference.MustTag("1")); !one.Dropped.IsZero() {
				t.Fatal("the list has it")
			}
			if r.Mirror == of {
				return found.Dropped
			}
		}
		return time.Time{}
	}
	mark(1, Unmatched)
	require.Equal(t, at(1), dropped(mirror))
	for _, why := range []Reason{Unfound, Unnamed, Unmatched} {
		mark(2, why)
		require.Equal(t, at(1), dropped(mirror))
		all, err := s.List(t.Context())
		require.NoError(t, err)
		i := slices.IndexFunc(all, func(r Repository) bool { return r.Mirror == mirror })
		found, _ := all[i].Find(reference.MustTag("2"))
		require.Equal(t, why, found.Why, "the last one")
	}
	mark(3, "")
	require.Zero(t, dropped(mirror))
	mark(4, Unnamed)
	require.Equal(t, at(4), dropped(mirror))
}

// TestQuiet: a run without changes writes nothing, except the time of the listing once a day.
func TestQuiet(t *testing.T) {
	s := open(t)
	seen := Seen{Listings: listing(map[string]bool{"1": true}), Put: []Put{put("1", one)}}
	s.add(t, 0, seen)
	revision := func() uint64 {
		e, err := s.kv.Get(t.Context(), key(mirror, destination))
		require.NoError(t, err)
		return e.Revision()
	}
	first := revision()
	seen.At = at(0).Add(23 * time.Hour)
	require.NoError(t, s.addOne(t.Context(), mirror, destination, seen))
	require.Equal(t, first, revision())
	s.add(t, 1, seen)
	require.Greater(t, revision(), first)
	require.Equal(t, at(1), s.only(t).Listed)
}

// TestAddAll: the records of many repositories are read with one request, and only changed ones are written.
func TestAddAll(t *testing.T) {
	s := open(t)
	all := map[reference.Repository]Seen{}
	for n := range 10 {
		to := reference.MustRepository(fmt.Sprintf("registry.example.com/app%d", n))
		all[to] = Seen{Put: []Put{put("1", one)}, At: at(0)}
	}
	require.NoError(t, s.Add(t.Context(), mirror, all))
	records, err := s.List(t.Context())
	require.NoError(t, err)
	require.Len(t, records, 10)

	sent := s.b.Conn.Stats().OutMsgs
	require.NoError(t, s.Add(t.Context(), mirror, all))
	require.EqualValues(t, 1, s.b.Conn.Stats().OutMsgs-sent)

	moved := records[3].Destination
	all[moved] = Seen{Put: []Put{put("1", two)}, At: at(1)}
	require.NoError(t, s.Add(t.Context(), mirror, all))
	records, err = s.List(t.Context())
	require.NoError(t, err)
	for _, r := range records {
		want := one
		if r.Destination == moved {
			want = two
		}
		require.Equal(t, want, r.Tags[0].Digest)
	}
}

func TestConcurrent(t *testing.T) {
	s := open(t)
	var group sync.WaitGroup
	for n := range 8 {
		group.Go(func() {
			_ = s.addOne(t.Context(), mirror, destination, Seen{Put: []Put{put(fmt.Sprint("t", n), one)}, At: start})
		})
	}
	group.Wait()
	require.Len(t, s.only(t).Tags, 8)
}

func TestForget(t *testing.T) {
	s := open(t)
	s.add(t, 0, Seen{Put: []Put{put("1", one), put("2", one)}})
	require.NoError(t, s.Forget(t.Context(), destination, map[reference.Tag]reference.Digest{reference.MustTag("1"): one, reference.MustTag("2"): two}))
	require.Len(t, s.only(t).Tags, 1)
	require.Equal(t, one, s.find(t, "2").Digest)
}

// TestLarge: a record fits into a message, and tags that it leaves out are not pruned.
func TestLarge(t *testing.T) {
	r := Repository{Destination: destination, Mirror: mirror}
	for n := range 30_000 {
		r.Tags = append(r.Tags, Tag{Name: reference.MustTag(fmt.Sprintf("t%06d", n)), Digest: reference.DigestOf([]byte{byte(n), byte(n >> 8)}), Source: source, First: start.Add(time.Duration(n)), Last: start})
	}
	data, left, err := r.encode()
	require.NoError(t, err)
	require.LessOrEqual(t, len(data), maxRecord)
	require.Positive(t, left)
	read, err := parse(data)
	require.NoError(t, err)
	require.Len(t, read.Tags, 30_000-left)
	require.Equal(t, r.Tags[0], read.Tags[0])
}

// TestForeign: an entry that is not a record is an error, because then no deletion is safe.
func TestForeign(t *testing.T) {
	s := open(t)
	s.add(t, 0, Seen{Put: []Put{put("1", one)}})
	_, err := s.kv.PutString(t.Context(), "default.0123", "{}")
	require.NoError(t, err)
	_, err = s.List(t.Context())
	require.ErrorIs(t, err, errMalformed)
}

func FuzzParse(f *testing.F) {
	good, _, err := Repository{Destination: destination, Mirror: mirror, Tags: []Tag{{Name: reference.MustTag("1"), Digest: one, Source: source}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parse(data); err == nil {
			r.add(Seen{Put: []Put{put("1", one)}, At: start})
			if _, ok := r.Find(reference.MustTag("1")); !ok {
				t.Fatal("lost")
			}
		}
	})
}

// TestKept: the entry that selects a tag decides whether it is kept. Without an entry, the last decision
// counts.
func TestKept(t *testing.T) {
	s := open(t)
	entry := func(choice selection.Selection, tags map[string]bool) []Listing {
		l := listing(tags)
		l[0].Entry, _ = choice.Compile()
		return l
	}
	lts := selection.Selection{Keep: []string{"lts"}}
	kept := put("lts", one)
	kept.Kept = true
	s.add(t, 0, Seen{Put: []Put{kept, put("old", two)}})
	require.True(t, s.find(t, "lts").Kept)
	require.False(t, s.find(t, "old").Kept)
	s.add(t, 1, Seen{Listings: entry(selection.Selection{Include: []string{"new"}}, map[string]bool{"new": true})})
	require.True(t, s.find(t, "lts").Kept, "another entry does not have it")
	s.add(t, 2, Seen{Listings: listing(map[string]bool{"new": true})})
	require.True(t, s.find(t, "lts").Kept)
	s.add(t, 3, Seen{Listings: entry(selection.Selection{}, map[string]bool{"new": true})})
	require.False(t, s.find(t, "lts").Kept, "its entry gives it up")
	s.add(t, 4, Seen{Listings: entry(lts, map[string]bool{"new": true})})
	require.True(t, s.find(t, "lts").Kept, "although the source lost it before")
	require.Equal(t, at(1), s.find(t, "lts").Dropped)
	s.add(t, 5, Seen{Put: []Put{put("lts", one)}})
	require.False(t, s.find(t, "lts").Kept)
}

// TestSome: Some finds tags of a registry on either side, and skips repositories that are left out
// and what is not a record.
func TestSome(t *testing.T) {
	s := open(t)
	to := func(path string) reference.Repository {
		return reference.MustRepository("registry.example.com/" + path)
	}
	one := func(from string) Seen {
		return Seen{Put: []Put{{Name: reference.MustTag("1"), Digest: one, Source: reference.MustRepository(from)}}, At: start}
	}
	require.NoError(t, s.Add(t.Context(), mirror, map[reference.Repository]Seen{
		to("a"): one("quay.io/a"), to("b"): one("quay.io/b"), to("c"): one("docker.io/library/c"),
	}))
	_, err := s.kv.PutString(t.Context(), "foreign.entry", "not a record")
	require.NoError(t, err)
	find := func(registry string, n int, without ...reference.Repository) []string {
		left := map[reference.Repository]bool{}
		for _, r := range without {
			left[r] = true
		}
		found, err := s.Some(t.Context(), registry, left, n)
		require.NoError(t, err)
		var names []string
		for _, r := range found {
			require.Len(t, r.Tags, 1)
			names = append(names, r.Tags[0].Source.String())
		}
		slices.Sort(names)
		return names
	}
	require.Equal(t, []string{"docker.io/library/c", "quay.io/a", "quay.io/b"}, find("registry.example.com", 9))
	require.Len(t, find("registry.example.com", 2), 2)
	require.Equal(t, []string{"quay.io/b"}, find("quay.io", 9, to("a")))
	require.Equal(t, []string{"quay.io/a"}, find("quay.io", 9, reference.MustRepository("quay.io/b")))
	require.Empty(t, find("docker.io", 9, to("c")))
	require.Empty(t, find("ghcr.io", 9))
}
