package failure

import (
	"context"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/subject"
)

func every(Record, Image) bool { return true }

// delivered takes the next chunk from the workers' consumer.
func delivered(t *testing.T, b *broker.Broker) (string, message.Chunk) {
	m, err := b.Consumer.Next(jetstream.FetchMaxWait(patience))
	require.NoError(t, err)
	require.NoError(t, m.DoubleAck(t.Context()))
	c, err := message.Decode(m.Data())
	require.NoError(t, err)
	return m.Subject(), c
}

func TestRepublish(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	s, b := open(t)
	failed := message.Chunk{Name: name, Run: "r1", Number: 3, Registry: registry}
	resolved := message.Repository{Source: reference.MustRepository(repository), Destination: reference.MustRepository("dest:5000/osism/osism")}
	require.NoError(t, s.Add(t.Context(), name, Of(failed, resolved, []message.Image{{Tag: reference.MustTag("1.0"), Digest: reference.MustDigest(digest), Attempts: 5}}, "timeout")))
	for _, r := range []message.Repository{
		{Source: reference.MustRepository("quay.io/osism/all"), Destination: reference.MustRepository("dest:5000/osism/all")},
		{Source: reference.MustRepository("quay.io/osism/pinned"), Destination: reference.MustRepository("dest:5000/osism/pinned"), Digest: reference.MustDigest(digest)},
		{Source: reference.MustRepository("quay.io/osism/both"), Destination: reference.MustRepository("dest:5000/osism/both"), Tag: reference.MustTag("2.0"), Digest: reference.MustDigest(digest)},
	} {
		require.NoError(t, s.Add(t.Context(), name, Of(failed, r, nil, "gone")))
	}
	records, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, []Image{{Source: "quay.io/osism/all", Destination: "dest:5000/osism/all", Reason: "gone"}}, undated(records[0].Images))

	done, err := s.Republish(t.Context(), name, "r2", func(r Record, _ Image) bool { return r.Repository != "quay.io/osism/both" })
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 3, Images: 3}, done)
	got := map[string]message.Repository{}
	for index := range done.Chunks {
		subj, c := delivered(t, b)
		require.Equal(t, subject.NewAddress(name, "r2", registry, token(index+1)).Under(subject.Chunk), subj)
		require.Equal(t, message.Chunk{
			Version: message.Version, Name: name, Run: "r2", Number: 3, Registry: registry, Republished: true, Repositories: c.Repositories,
		}, c)
		require.Len(t, c.Repositories, 1)
		got[c.Repositories[0].Source.String()] = c.Repositories[0]
	}
	require.Equal(t, map[string]message.Repository{
		repository:             {Source: reference.MustRepository(repository), Destination: reference.MustRepository("dest:5000/osism/osism"), Tag: reference.MustTag("1.0")},
		"quay.io/osism/all":    {Source: reference.MustRepository("quay.io/osism/all"), Destination: reference.MustRepository("dest:5000/osism/all")},
		"quay.io/osism/pinned": {Source: reference.MustRepository("quay.io/osism/pinned"), Destination: reference.MustRepository("dest:5000/osism/pinned"), Digest: reference.MustDigest(digest)},
	}, got)
	require.Equal(t, []string{"quay.io/osism/both:2.0@" + digest}, sources(t, s))
}

// TestTwoOperators: two republishes that read the record at the same time publish each image once.
func TestTwoOperators(t *testing.T) {
	s, b := open(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1", "2")))
	var both sync.WaitGroup
	both.Add(2)
	var read [2]sync.Once
	results := make([]Republished, 2)
	var group errgroup.Group
	for i, run := range []string{"r2", "r3"} {
		group.Go(func() error {
			var err error
			results[i], err = s.Republish(context.Background(), name, run, func(Record, Image) bool {
				read[i].Do(both.Done)
				both.Wait()
				return true
			})
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.ElementsMatch(t, []Republished{{Chunks: 1, Images: 2}, {Taken: []string{repository}}}, results)
	require.Len(t, stored(t, b, subject.Chunk), 1)
	require.Empty(t, sources(t, s))
}

// TestRepublishAndAWorker: if a worker adds to the record during a republish, no failure is lost, and
// no failure that stays recorded is published.
func TestRepublishAndAWorker(t *testing.T) {
	s, b := open(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	done, err := s.Republish(t.Context(), name, "r2", func(Record, Image) bool {
		require.NoError(t, s.Add(t.Context(), name, record("r1", "2")))
		return true
	})
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
	require.Len(t, stored(t, b, subject.Chunk), 1)
	require.Equal(t, []string{source("2")}, sources(t, s), "what was recorded meanwhile stays")

	done, err = s.Republish(t.Context(), name, "r3", every)
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
	require.NoError(t, s.Add(t.Context(), name, record("r3", "2")), "failed again")
	require.Equal(t, []string{source("2")}, sources(t, s))
	done, err = s.Republish(t.Context(), name, "r4", every)
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
}

// TestRepublishOneImage: the other images of the record stay, each with its reason.
func TestRepublishOneImage(t *testing.T) {
	s, b := open(t)
	s.limit = 1 // each image has a page of its own
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	s.limit = maxPage
	require.NoError(t, s.Add(t.Context(), name, record("r1", "2", "3")))
	before, err := s.List(t.Context(), name)
	require.NoError(t, err)
	one := func(tag string) func(Record, Image) bool {
		return func(_ Record, i Image) bool { return i.Source == source(tag) }
	}
	done, err := s.Republish(t.Context(), name, "r2", one("2"))
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
	_, c := delivered(t, b)
	require.Len(t, c.Repositories, 1)
	require.Equal(t, "2", c.Repositories[0].Tag.String())
	after, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, []Image{before[0].Images[0], before[0].Images[2]}, after[0].Images)

	// The image is taken once, even if another process changes the record in the meantime.
	done, err = s.Republish(t.Context(), name, "r3", func(_ Record, i Image) bool {
		require.NoError(t, s.Add(t.Context(), name, record("r1", "4")))
		return i.Source == source("3")
	})
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
	done, err = s.Republish(t.Context(), name, "r4", func(_ Record, i Image) bool {
		if i.Source == source("1") {
			_, err := s.Republish(t.Context(), name, "r5", one("1"))
			require.NoError(t, err)
		}
		return i.Source == source("1")
	})
	require.NoError(t, err)
	require.Equal(t, Republished{Taken: []string{repository}}, done)
	require.Equal(t, []string{source("4")}, sources(t, s))
	require.Len(t, stored(t, b, subject.Chunk), 2)
}

// TestAnImageIsAlwaysSomewhere: after each write to the stream, the image is in a chunk or in a record.
func TestAnImageIsAlwaysSomewhere(t *testing.T) {
	s, b := open(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	info, err := b.Stream.Info(t.Context())
	require.NoError(t, err)
	_, err = s.Republish(t.Context(), name, "r2", every)
	require.NoError(t, err)
	chunk, err := b.Stream.GetMsg(t.Context(), info.State.LastSeq+1)
	require.NoError(t, err)
	require.Contains(t, chunk.Subject, subject.Chunk)
	tombstone, err := b.Stream.GetMsg(t.Context(), info.State.LastSeq+2)
	require.NoError(t, err)
	require.Equal(t, subject.Failure(name, registry, repository, 1), tombstone.Subject)
	require.Equal(t, chunk.Header.Get("Nats-Batch-Id"), tombstone.Header.Get("Nats-Batch-Id"))
}

func TestARecordThatIsNoneHoldsUpNoOther(t *testing.T) {
	s, b := open(t)
	bad := Record{Repository: "a", Registry: registry, Images: []Image{{Source: "no:reference:at all"}}}
	require.NoError(t, s.Add(t.Context(), name, bad))
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	done, err := s.Republish(t.Context(), name, "r2", every)
	require.ErrorContains(t, err, bad.Images[0].Source)
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
	require.Len(t, stored(t, b, subject.Chunk), 1)
	require.Equal(t, []string{bad.Images[0].Source}, sources(t, s))
}
