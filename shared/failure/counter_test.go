package failure

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// TestCounter: after each change of the records, it counts as many failures as List returns.
func TestCounter(t *testing.T) {
	s, b := open(t)
	c := s.Counter()
	counts := func(want int, requests int) {
		t.Helper()
		before := b.Conn.Stats().OutMsgs
		got, err := c.Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, requests, b.Conn.Stats().OutMsgs-before, "requests")
		require.Equal(t, Count{Listed: want}, got.Images[name])
		require.Len(t, sources(t, s), want)
	}
	counts(0, 1)
	require.NoError(t, s.Add(t.Context(), name, record("r1", 1, 2, 3)))
	for i := range 100 {
		r := record("r1", 1)
		r.Repository = fmt.Sprintf("quay.io/osism/%d", i)
		r.Images[0].Source = r.Repository + ":1"
		require.NoError(t, s.Add(t.Context(), name, r))
	}
	require.NoError(t, s.Add(t.Context(), "other", record("r1", 1)))
	counts(103, 3)
	n, err := s.Subtract(t.Context(), name, registry, repository, func(s string) bool { return s == source(1) })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	counts(102, 3)
	done, err := s.Republish(t.Context(), name, "r2", func(r Record, _ Image) bool { return r.Repository == repository })
	require.NoError(t, err)
	require.Equal(t, 2, done.Images)
	counts(100, 3)
	got, err := c.Count(t.Context())
	require.NoError(t, err)
	require.Equal(t, Count{Listed: 1}, got.Images["other"])

	// An unreadable record hides no other.
	garbage := nats.NewMsg(subject.Failure("garbage", registry, repository, 1))
	garbage.Data = []byte("{")
	_, err = b.Publish(t.Context(), garbage)
	require.NoError(t, err)
	require.NoError(t, s.Add(t.Context(), name, record("r1", 9)))
	counts(101, 3)
	counts(101, 3)
	got, err = c.Count(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, got.Unreadable)
	require.Zero(t, got.Images["garbage"])
	require.NoError(t, b.Stream.Purge(t.Context(), jetstream.WithPurgeSubject(garbage.Subject)))
	got, err = c.Count(t.Context())
	require.NoError(t, err)
	require.Zero(t, got.Unreadable)

	// A counter that was not used for long may have missed a tombstone.
	require.NoError(t, b.Stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject.OfName(subject.Failed, name))))
	c.asked = time.Now().Add(-tombstoneTTL)
	counts(0, 3)
}

// TestCounterOfANewStream: if the stream was deleted and created again, the counter counts what the new
// one has, even if it is never idle.
func TestCounterOfANewStream(t *testing.T) {
	s, b := open(t)
	c := s.Counter()
	count := func() Count {
		counts, err := c.Count(t.Context())
		require.NoError(t, err)
		return counts.Images[name]
	}
	require.NoError(t, s.Add(t.Context(), name, record("r1", 1, 2)))
	for n := 3; n < 6; n++ {
		require.NoError(t, s.Add(t.Context(), name, record("r1", n)))
	}
	require.Equal(t, Count{Listed: 5}, count())
	require.NoError(t, b.JS.DeleteStream(t.Context(), broker.StreamName))
	require.NoError(t, b.Ensure(t.Context()))
	require.NoError(t, s.Add(t.Context(), name, record("r2", 9)))
	c.read.Compared = time.Now().Add(-time.Hour)
	require.Equal(t, Count{Listed: 1}, count())
}
