package failure

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	name       = "default"
	registry   = "quay.io"
	repository = "quay.io/osism/osism"
	// patience is how long a test waits for an event.
	patience = 10 * time.Second
)

func source(tag any) string { return fmt.Sprintf("%s:%v", repository, tag) }

// record returns the record of one repository, with an image for each tag.
func record(run string, tags ...any) Record {
	r := Record{Repository: repository, Registry: registry, Chunk: 3, Run: run}
	for _, tag := range tags {
		r.Images = append(r.Images, Image{
			Source: source(tag), Destination: fmt.Sprintf("dest:5000/osism/osism:%v", tag), Attempts: 5, Reason: "manifest unknown",
		})
	}
	return r
}

// undated returns the images without the time of their first failure.
func undated(images []Image) []Image {
	images = slices.Clone(images)
	for i := range images {
		images[i].FirstFailed = time.Time{}
	}
	return images
}

// TestFirstFailed: an image that fails again keeps the time of its first failure, until it
// is mirrored.
func TestFirstFailed(t *testing.T) {
	s, _ := open(t)
	first := func() map[string]time.Time {
		records, err := s.List(t.Context(), name)
		require.NoError(t, err)
		times := map[string]time.Time{}
		for _, i := range records[0].Images {
			times[i.Source] = i.FirstFailed
		}
		return times
	}
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	long := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	require.NoError(t, s.update(t.Context(), name, registry, repository, func(pages []*page) ([]*page, error) {
		pages[0].record.Images[0].FirstFailed, pages[0].changed = long, true
		return pages, nil
	}))
	before := time.Now().Truncate(time.Second)
	require.NoError(t, s.Add(t.Context(), name, record("r2", "1", "2")))
	require.Equal(t, long, first()[source("1")])
	require.False(t, first()[source("2")].Before(before))

	_, err := s.Subtract(t.Context(), name, registry, repository, func(of string) bool { return of == source("1") })
	require.NoError(t, err)
	require.NoError(t, s.Add(t.Context(), name, record("r3", "1")))
	require.False(t, first()[source("1")].Before(before))
}

func tags(n int) (tags []any) {
	for i := range n {
		tags = append(tags, fmt.Sprintf("%04d", i))
	}
	return tags
}

func open(t *testing.T) (*Store, *broker.Broker) {
	b := brokertest.Embedded(t)
	return NewStore(b, slog.New(slog.DiscardHandler)), b
}

// sources lists the images of every record of the name.
func sources(t *testing.T, s *Store) []string {
	records, err := s.List(t.Context(), name)
	require.NoError(t, err)
	all := []string{}
	for _, r := range records {
		for _, i := range r.Images {
			all = append(all, i.Source)
		}
	}
	return all
}

// stored returns the subjects of the messages below root.
func stored(t *testing.T, b *broker.Broker, root string) []string {
	info, err := b.Stream.Info(t.Context(), jetstream.WithSubjectFilter(root+".>"))
	require.NoError(t, err)
	subjects := []string{}
	for subj := range info.State.Subjects {
		subjects = append(subjects, subj)
	}
	return subjects
}

func TestAddAndSubtract(t *testing.T) {
	s, b := open(t)
	before := time.Now()
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1.0", "1.1")))
	again := record("r2", "1.1", "1.2")
	again.Images[0].Reason = "timeout\n" + strings.Repeat("ü", maxReason)
	require.NoError(t, s.Add(t.Context(), name, again))
	require.NoError(t, s.Add(t.Context(), "other", record("r3", "9")))

	records, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, records, 1)
	got := records[0]
	require.WithinRange(t, got.FailedAt, before, time.Now())
	require.Equal(t, "r2", got.Run)
	require.Equal(t, []string{source("1.0"), source("1.1"), source("1.2")}, sources(t, s))
	require.Regexp(t, `^timeout\nü+…$`, got.Images[1].Reason)
	require.Less(t, len(got.Images[1].Reason), maxReason+4)

	n, err := s.Subtract(t.Context(), name, registry, repository, func(s string) bool { return s == source("1.1") || s == source("2.0") })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{source("1.0"), source("1.2")}, sources(t, s))
	n, err = s.Subtract(t.Context(), name, registry, "quay.io/osism/unknown", func(string) bool { return true })
	require.NoError(t, err)
	require.Zero(t, n)

	n, err = s.Subtract(t.Context(), name, registry, repository, func(string) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Empty(t, sources(t, s))
	require.Len(t, stored(t, b, subject.Failed), 2, "a tombstone, and the other name's record")
}

func TestListSortsByRegistryAndRepository(t *testing.T) {
	s, _ := open(t)
	for _, r := range []string{"quay.io/b", "docker.io/z", "quay.io/a", "quay.io/a.b", "quay.io/2"} {
		host, _, _ := strings.Cut(r, "/")
		require.NoError(t, s.Add(t.Context(), name, Record{Repository: r, Registry: host, Images: []Image{{Source: r}}}))
	}
	require.Equal(t, []string{"docker.io/z", "quay.io/2", "quay.io/a", "quay.io/a.b", "quay.io/b"}, sources(t, s))
}

// TestManyWriters: workers can add and subtract at the same time, on one page and on several, even
// at a cluster, which reports conflicts with another error.
func TestManyWriters(t *testing.T) {
	for name, test := range map[string]struct {
		limit  int
		broker func() *broker.Broker
	}{
		"one page":   {maxPage, func() *broker.Broker { return brokertest.Embedded(t) }},
		"many pages": {1200, func() *broker.Broker { return brokertest.Embedded(t) }},
		"cluster":    {maxPage, func() *broker.Broker { return brokertest.Open(t, brokertest.StartCluster(t).Config()) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewStore(test.broker(), slog.New(slog.DiscardHandler))
			s.limit = test.limit
			manyWriters(t, s)
		})
	}
}

func manyWriters(t *testing.T, s *Store) {
	t.Helper()
	const writers = 16
	require.NoError(t, s.Add(t.Context(), name, record("r0", "gone-1", "gone-2")))
	var group errgroup.Group
	var want []string
	for i := range writers {
		want = append(want, source(fmt.Sprintf("%02d-a", i)), source(fmt.Sprintf("%02d-b", i)))
		group.Go(func() error {
			if err := s.Add(t.Context(), name, record(fmt.Sprint("r", i), fmt.Sprintf("%02d-a", i))); err != nil {
				return err
			}
			if i < 2 {
				gone := source(fmt.Sprint("gone-", i+1))
				n, err := s.Subtract(t.Context(), name, registry, repository, func(s string) bool { return s == gone })
				if err != nil || n != 1 {
					return fmt.Errorf("subtracted %d: %w", n, err)
				}
			}
			return s.Add(t.Context(), name, record(fmt.Sprint("r", i), fmt.Sprintf("%02d-b", i)))
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, want, sources(t, s))
}

func TestPages(t *testing.T) {
	s, b := open(t)
	s.limit = 2000
	first, second := record("r1", tags(90)...), record("r2", tags(90)...)
	for i := range second.Images {
		second.Images[i].Reason = strings.Repeat("longer ", 20)
	}
	for _, r := range []Record{first, second} {
		require.NoError(t, s.Add(t.Context(), name, r))
		records, err := s.List(t.Context(), name)
		require.NoError(t, err)
		require.Len(t, records, 1)
		require.Equal(t, r.Run, records[0].Run)
		require.Equal(t, r.Images, undated(records[0].Images))
	}
	pages := stored(t, b, subject.Failed)
	require.Greater(t, len(pages), 11, "page 10 sorts before page 2")
	for _, subj := range pages {
		m, err := b.Stream.GetLastMsgForSubject(t.Context(), subj)
		require.NoError(t, err)
		require.Less(t, len(m.Data), s.limit)
	}

	done, err := s.Republish(t.Context(), name, "r3", func(Record, Image) bool { return true })
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: len(stored(t, b, subject.Chunk)), Images: 90}, done)
	require.Empty(t, sources(t, s))
}

// TestLargePages: a record with several pages of the real size can be read.
func TestLargePages(t *testing.T) {
	s, b := open(t)
	r := record("r1", tags(600)...)
	for i := range r.Images {
		r.Images[i].Reason = strings.Repeat("x", maxReason)
	}
	require.NoError(t, s.Add(t.Context(), name, r))
	require.Len(t, stored(t, b, subject.Failed), 5)
	n, err := s.Subtract(t.Context(), name, registry, repository, func(source string) bool { return strings.HasSuffix(source, "7") })
	require.NoError(t, err)
	require.Equal(t, 60, n)
	require.Len(t, sources(t, s), 540)
}

func TestTombstones(t *testing.T) {
	s, b := open(t)
	s.ttl = time.Second // the shortest there is
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	_, err := s.Republish(t.Context(), name, "r2", func(Record, Image) bool { return true })
	require.NoError(t, err)
	require.Empty(t, sources(t, s))
	done, err := s.Republish(t.Context(), name, "r3", func(Record, Image) bool { return true })
	require.NoError(t, err)
	require.Equal(t, Republished{}, done)

	// If a record replaces a tombstone, it stays when the tombstone would expire.
	require.NoError(t, s.Add(t.Context(), name, record("r2", "2")))
	other := record("r2", "3")
	other.Repository = "quay.io/osism/other"
	require.NoError(t, s.Add(t.Context(), name, other))
	_, err = s.Subtract(t.Context(), name, registry, other.Repository, func(string) bool { return true })
	require.NoError(t, err)
	require.Len(t, stored(t, b, subject.Failed), 2)
	require.Eventually(t, func() bool { return len(stored(t, b, subject.Failed)) == 1 }, patience, 20*time.Millisecond)
	require.Equal(t, []string{source("2")}, sources(t, s))

	// After the tombstone has expired, a record starts again at its first revision.
	require.NoError(t, s.Add(t.Context(), name, other))
	require.Len(t, sources(t, s), 2)
}

func TestMessagesNoWorkerCouldRead(t *testing.T) {
	s, b := open(t)
	unreadable := func(data []byte) Record {
		r := record("r1", "unreadable")
		r.Message = data
		return r
	}
	messages := [][]byte{[]byte("\x00\xff{}"), {}, make([]byte, message.MaxSize)}
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	for _, m := range messages {
		require.NoError(t, s.Add(t.Context(), name, unreadable(m)))
		require.NoError(t, s.Add(t.Context(), name, unreadable(m)), "delivered twice")
	}
	require.NoError(t, s.Add(t.Context(), name, record("r2", "2")))
	require.NoError(t, s.Add(t.Context(), name, unreadable(make([]byte, 1000<<10))), "what is not ours can be larger")
	_, err := s.Subtract(t.Context(), name, registry, repository, func(string) bool { return true })
	require.NoError(t, err)
	require.Len(t, sources(t, s), 3)

	done, err := s.Republish(t.Context(), name, "r3", func(Record, Image) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 3, done.Chunks)
	var got [][]byte
	for range messages {
		m, err := b.Consumer.Next(jetstream.FetchMaxWait(patience))
		require.NoError(t, err)
		got = append(got, append([]byte{}, m.Data()...))
	}
	require.ElementsMatch(t, messages, got)
}

// TestNoAnswer: if the broker does not answer, the record does not count as empty.
func TestNoAnswer(t *testing.T) {
	s, _ := open(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err := s.Subtract(late, name, registry, repository, func(string) bool { return true })
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, s.Add(late, name, record("r1", "2")), context.DeadlineExceeded)
	_, err = s.List(late, name)
	require.Error(t, err)
	require.Equal(t, []string{source("1")}, sources(t, s))
}

// TestNewerRecord: after a rollback, a record of a newer version is shown, and stays as it is.
func TestNewerRecord(t *testing.T) {
	s, b := open(t)
	m := nats.NewMsg(subject.Failure(name, registry, repository, 1))
	m.Data = fmt.Appendf(nil, `{"version":2,"repository":%q,"registry":%q,"chunk":"three","new":1,"images":[{"source":%q,"new":1}]}`,
		repository, registry, source("1"))
	_, err := b.Publish(t.Context(), m)
	require.NoError(t, err)

	require.NoError(t, s.Add(t.Context(), name, record("r1", "1", "2", "3")))
	removed, err := s.Subtract(t.Context(), name, registry, repository, func(i string) bool { return i != source("3") })
	require.NoError(t, err)
	require.Equal(t, 2, removed)
	require.Equal(t, []string{source("1"), source("3")}, sources(t, s))
	done, err := s.Republish(t.Context(), name, "r2", func(Record, Image) bool { return true })
	require.ErrorIs(t, err, errNewer)
	require.EqualError(t, err, repository+": recorded by a newer version, whose planner can republish it")
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
	require.Equal(t, []string{source("1")}, sources(t, s))

	kept, err := b.Stream.GetLastMsgForSubject(t.Context(), m.Subject)
	require.NoError(t, err)
	require.Equal(t, m.Data, kept.Data)
}
