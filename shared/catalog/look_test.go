package catalog

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

// listed returns the observations of a repository whose source was listed.
func listed(name string, after time.Duration, tags ...Tag) Repository {
	r := seen(after, tags...)
	r.Source, r.Listed = reference.MustRepository("quay.io/osism/"+name), start.Add(after)
	return r
}

// puts returns the number of messages that the broker has stored in the bucket.
func puts(t *testing.T, b *broker.Broker) uint64 {
	t.Helper()
	stream, err := b.JS.Stream(t.Context(), "KV_"+bucket)
	require.NoError(t, err)
	return stream.CachedInfo().State.LastSeq
}

// TestLook: a delivery without changes reads once and writes once, and updates the times.
func TestLook(t *testing.T) {
	b := brokertest.Embedded(t)
	s, err := Open(t.Context(), b)
	require.NoError(t, err)
	reader, err := Open(t.Context(), b)
	require.NoError(t, err)
	both := func(after time.Duration, state run.Outcome) []Repository {
		return []Repository{
			listed("a", after, tag("1", first, state), tag("2", first, state)),
			listed("b", after, tag("1", first, state)),
		}
	}
	require.NoError(t, s.Add(t.Context(), name, both(0, run.Copied)...))
	require.EqualValues(t, 2, puts(t, b))
	before, err := reader.List(t.Context(), name)
	require.NoError(t, err)

	sources := []reference.Repository{before[0].Source, before[1].Source}
	for n := 1; n <= 2; n++ {
		sent := b.Conn.Stats().OutMsgs
		require.NoError(t, s.Fetch(t.Context(), name, sources))
		gone, err := s.Vanished(t.Context(), name, sources[0], []reference.Tag{reference.MustTag("1")})
		require.NoError(t, err)
		require.Equal(t, []reference.Tag{reference.MustTag("2")}, gone)
		require.NoError(t, s.Add(t.Context(), name, both(time.Duration(n)*time.Minute, run.Unchanged)...))
		require.EqualValues(t, 2, b.Conn.Stats().OutMsgs-sent, "one request to read, one to write")
		require.EqualValues(t, 2+n, puts(t, b))

		after, err := reader.List(t.Context(), name)
		require.NoError(t, err)
		for i, r := range after {
			at := start.Add(time.Duration(n) * time.Minute)
			require.Equal(t, at, r.Checked)
			require.Equal(t, at, r.Listed)
			require.Equal(t, before[i].Changed(), r.Changed())
			require.Equal(t, at, r.Tags[0].Checked)
			require.Equal(t, run.Unchanged, r.Tags[0].State)
		}
	}

	// The change of one repository is recorded, and the other one is only looked at.
	news := both(3*time.Minute, run.Unchanged)
	news[0].Tags[0] = tag("1", second, run.Copied)
	news[0].Tags[0].Checked = news[0].Checked
	require.NoError(t, s.Add(t.Context(), name, news...))
	require.EqualValues(t, 2+2+2, puts(t, b))
	all, err := reader.List(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, second, all[0].Tags[0].At)
	require.Equal(t, start.Add(3*time.Minute), all[0].Changed())
	require.Equal(t, start.Add(3*time.Minute), all[1].Checked)
	require.Equal(t, start, all[1].Changed())
}

// TestConfirmed: every difference from the record is recorded.
func TestConfirmed(t *testing.T) {
	recorded := func() Repository {
		gone, failed := tag("gone", first, run.Vanished), tag("failed", first, run.Failed)
		failed.Why = "denied"
		var r Repository
		r.merge(listed("a", 0, tag("1", first, run.Copied), gone, failed))
		return r
	}
	for name, c := range map[string]struct {
		recorded, seen func(*Repository)
		want           bool
	}{
		"the same":              {want: true},
		"earlier":               {seen: func(r *Repository) { r.Checked = start.Add(-time.Second) }},
		"another destination":   {seen: func(r *Repository) { r.Destination = source }},
		"a digest has moved":    {seen: func(r *Repository) { r.Tags[0].At = second }},
		"the source has moved":  {seen: func(r *Repository) { r.Tags[0].Source = second }},
		"copied again":          {seen: func(r *Repository) { r.Tags[0].State = run.Copied; r.Tags[0].At = second }},
		"failed now":            {seen: func(r *Repository) { r.Tags[0].State = run.Failed }},
		"failed differently":    {seen: func(r *Repository) { r.Tags[1].Why = "away" }},
		"mirrored at last":      {seen: func(r *Repository) { r.Tags[1].State, r.Tags[1].Why = run.Unchanged, "" }},
		"one is new":            {seen: func(r *Repository) { r.Tags = append(r.Tags, tag("3", first, run.Unchanged)) }},
		"one is not looked at":  {seen: func(r *Repository) { r.Tags = r.Tags[:1] }},
		"it came back":          {seen: func(r *Repository) { r.Tags = append(r.Tags, tag("gone", first, run.Unchanged)) }},
		"it was not listed":     {seen: func(r *Repository) { r.Listed = time.Time{} }},
		"it cannot be listed":   {seen: func(r *Repository) { r.Why = "denied" }},
		"it could not be":       {recorded: func(r *Repository) { r.Why = "denied" }},
		"it was never seen":     {recorded: func(r *Repository) { r.Checked = time.Time{} }},
		"others are forgotten":  {recorded: func(r *Repository) { r.More = true }},
		"the list pins it now":  {seen: func(r *Repository) { r.Tags[0].Pinned = true }},
		"it waits":              {seen: func(r *Repository) { r.Tags[0].State, r.Tags[0].Until = run.Waiting, start }},
		"another failed before": {recorded: func(r *Repository) { r.Tags[0].State = run.Failed }},
	} {
		t.Run(name, func(t *testing.T) {
			failed := tag("failed", first, run.Failed)
			failed.Why = "denied"
			was, now := recorded(), listed("a", time.Minute, tag("1", first, run.Unchanged), failed)
			if c.recorded != nil {
				c.recorded(&was)
			}
			if c.seen != nil {
				c.seen(&now)
			}
			require.Equal(t, c.want, was.isConfirmedBy(now))
		})
	}
}

// TestLookRace: a look does not hide a record of another worker, and garbage is not a look.
func TestLookRace(t *testing.T) {
	b := brokertest.Embedded(t)
	s, err := Open(t.Context(), b)
	require.NoError(t, err)
	other, err := Open(t.Context(), b)
	require.NoError(t, err)
	require.NoError(t, s.Add(t.Context(), name, listed("a", 0, tag("1", first, run.Copied))))
	at := listed("a", 0).Source
	require.NoError(t, s.Fetch(t.Context(), name, []reference.Repository{at}))
	require.NoError(t, other.addOne(t.Context(), name, listed("a", time.Second, tag("1", second, run.Copied))))
	require.NoError(t, s.Add(t.Context(), name, listed("a", time.Minute, tag("1", first, run.Unchanged))))
	for _, garbage := range []string{"", "{}", "~", `{"key":"` + name + `.look-1","at":"2999-01-01T00:00:00Z","of":["x"]}`} {
		m := nats.NewMsg("$KV." + bucket + "." + name + ".look-0")
		m.Data = []byte(garbage)
		_, err := b.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	all, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, second, all[0].Tags[0].At)
	require.Equal(t, start.Add(time.Second), all[0].Changed())
}
