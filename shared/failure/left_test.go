package failure

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// without is a list of all images except these.
func without(sources ...string) func(reference.Reference) bool {
	return func(r reference.Reference) bool {
		for _, s := range sources {
			if r.String() == s {
				return false
			}
		}
		return true
	}
}

// left returns the images that are marked, and when.
func left(t *testing.T, s *Store) map[string]time.Time {
	t.Helper()
	records, err := s.List(t.Context(), name)
	require.NoError(t, err)
	marked := map[string]time.Time{}
	for _, r := range records {
		for _, i := range r.Images {
			if !i.LeftList.IsZero() {
				marked[i.Source] = i.LeftList
			}
		}
	}
	return marked
}

func logged(t *testing.T) (*Store, *bytes.Buffer) {
	s, _ := open(t)
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	return s, &log
}

// TestMarkLeft: an image is marked once, loses the mark if the list has it again, and is deleted after 30
// days. Other failures stay as they are.
func TestMarkLeft(t *testing.T) {
	s, log := logged(t)
	s.limit = 900 // several pages
	now := time.Now().UTC().Truncate(time.Second)
	mark := func(want int, after time.Duration, sources ...string) {
		t.Helper()
		n, err := s.MarkLeft(t.Context(), name, without(sources...), now.Add(after))
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.NoError(t, s.Add(t.Context(), name, record("r1", tags(10)...)))
	require.NoError(t, s.Add(t.Context(), "other", record("r1", "0001")))
	unread := record("r1", "0001")
	unread.Repository, unread.Message = MessageName(7, "mirror.chunk.x"), []byte("{")
	unread.Images[0].Source = unread.Repository
	require.NoError(t, s.Add(t.Context(), name, unread))

	mark(2, 0, source("0001"), source("0009"))
	require.Equal(t, map[string]time.Time{source("0001"): now, source("0009"): now}, left(t, s))
	mark(1, time.Hour, source("0001"), source("0009"), source("0002"))
	require.Equal(t, map[string]time.Time{source("0001"): now, source("0009"): now, source("0002"): now.Add(time.Hour)}, left(t, s))
	counts, err := s.Counter().Count(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]Count{name: {Listed: 8, LeftList: 3}, "other": {Listed: 1}}, counts.Images)
	info, err := s.b.Stream.Info(t.Context())
	require.NoError(t, err)
	mark(0, 2*time.Hour, source("0001"), source("0009"), source("0002"))
	after, err := s.b.Stream.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, info.State.LastSeq, after.State.LastSeq, "nothing has changed, and nothing is written")

	mark(0, 3*time.Hour, source("0009"), source("0002"))
	require.NotContains(t, left(t, s), source("0001"), "it is back")
	mark(1, KeepLeft, source("0001"), source("0009"), source("0002"))
	require.Len(t, left(t, s), 3)
	require.Empty(t, log.String())
	mark(0, KeepLeft+time.Second, source("0001"), source("0009"), source("0002"))
	require.Equal(t, map[string]time.Time{source("0001"): now.Add(KeepLeft), source("0002"): now.Add(time.Hour)}, left(t, s))
	require.Equal(t, 1, strings.Count(log.String(), "deleted a failure that left the list long ago"))
	require.Contains(t, log.String(), "image="+source("0009"))
	require.Len(t, sources(t, s), 10, "9 of the repository, and what no worker could read")
}

// TestLeftFailureThatIsTriedAgain: a marked failure can be republished. If it fails again, it is not marked
// until the next plan.
func TestLeftFailureThatIsTriedAgain(t *testing.T) {
	s, b := open(t)
	r := message.Repository{Source: reference.MustRepository(repository), Destination: reference.MustRepository("dest:5000/osism/osism"),
		Selection: &selection.Selection{Platforms: []string{"linux/amd64"}}}
	of := Of(message.Chunk{Name: name, Run: "r1", Number: 3, Registry: registry}, r, []message.Image{{Tag: reference.MustTag("1")}}, "timeout")
	require.NoError(t, s.Add(t.Context(), name, of))
	_, err := s.MarkLeft(t.Context(), name, without(source("1")), time.Now())
	require.NoError(t, err)
	require.Len(t, left(t, s), 1)
	done, err := s.Republish(t.Context(), name, "r2", every)
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 1, Images: 1}, done)
	_, c := delivered(t, b)
	require.Equal(t, []string{"linux/amd64"}, c.Repositories[0].Selection.Platforms)
	require.NoError(t, s.Add(t.Context(), name, of))
	require.Empty(t, left(t, s))
	_, err = s.MarkLeft(t.Context(), name, without(source("1")), time.Now())
	require.NoError(t, err)
	n, err := s.Subtract(t.Context(), name, registry, repository, func(string) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 1, n, "a run that finds it mirrored is done with it")
}

// TestMarksFitIntoTheirPage: a full page has room for the marks of all its images.
func TestMarksFitIntoTheirPage(t *testing.T) {
	s, b := open(t)
	s.limit = 2000
	require.NoError(t, s.Add(t.Context(), name, record("r1", tags(90)...)))
	_, err := s.MarkLeft(t.Context(), name, func(reference.Reference) bool { return false }, time.Now())
	require.NoError(t, err)
	require.Len(t, left(t, s), 90)
	for _, subj := range stored(t, b, "mirror.failed") {
		m, err := b.Stream.GetLastMsgForSubject(t.Context(), subj)
		require.NoError(t, err)
		require.Less(t, len(m.Data), s.limit)
	}
}
