package run

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	name = "default"
	// patience bounds every wait of a test.
	patience = 10 * time.Second
)

func open(t *testing.T) (*Store, *broker.Broker) {
	b := brokertest.Embedded(t)
	s, err := Open(t.Context(), b)
	require.NoError(t, err)
	return s, b
}

func TestNewID(t *testing.T) {
	now := time.Date(2026, 12, 31, 23, 59, 59, 998_000_000, time.FixedZone("west", -3600))
	var ids []string
	for i := range 100 {
		ids = append(ids, NewID(now.Add(time.Duration(i)*time.Millisecond)))
	}
	require.True(t, slices.IsSorted(ids), ids)
	require.True(t, ValidID(ids[0]))
	require.False(t, ValidID(ids[0]+"x"))
	require.Regexp(t, `^20270101-005959-998-[0-9a-f]{4}$`, ids[0])
	a, err := subject.ParseAddress(subject.NewAddress(name, ids[0], "quay.io", "1").Under(subject.Chunk))
	require.NoError(t, err)
	require.Equal(t, ids[0], a.Run)
}

func TestRuns(t *testing.T) {
	s, _ := open(t)
	_, err := s.Get(t.Context(), name, "")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "in the last 30 days")

	started := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := Run{
		Name: name, ID: "20260102-030405-000-abcd", Kind: KindPlan, Chunks: 3, Entries: 30, Destination: "dest",
		Started: started, FirstDue: started, Interval: time.Hour, Published: true,
	}
	older := Run{Name: name, ID: "20260101-030405-000-ffff"}
	for _, r := range []Run{want, older, {Name: "default-2", ID: "20270101-030405-000-abcd"}} {
		require.NoError(t, s.Put(t.Context(), r))
	}
	// Neither progress nor the sweep is a run.
	require.NoError(t, s.Record(t.Context(), subject.NewAddress(name, want.ID, "quay.io", "1"), Progress{State: Done}))
	_, err = s.ClaimSweep(t.Context(), started, time.Minute)
	require.NoError(t, err)

	runs, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, []Run{want, older}, runs)
	got, err := s.Get(t.Context(), name, "")
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = s.Get(t.Context(), name, older.ID)
	require.NoError(t, err)
	require.Equal(t, older, got)
	for _, id := range []string{"20270101-030405-000-abcd", "*", "no such"} {
		_, err = s.Get(t.Context(), name, id)
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorContains(t, err, id)
	}

	require.NoError(t, s.End(t.Context(), name, older.ID, StateCancelled))
	got, err = s.Get(t.Context(), name, older.ID)
	require.NoError(t, err)
	require.Equal(t, StateCancelled, got.Ended)
	require.ErrorIs(t, s.End(t.Context(), name, "none", StateCancelled), ErrNotFound)
}

// TestRunThatIsTakenBack: the run is not found any more, not even by trackers that have read it.
func TestRunThatIsTakenBack(t *testing.T) {
	s, _ := open(t)
	now := time.Now()
	kept, gone := Run{Name: name, ID: NewID(now), Started: now}, Run{Name: name, ID: NewID(now.Add(time.Second)), Started: now}
	require.NoError(t, s.Put(t.Context(), kept))
	require.NoError(t, s.Put(t.Context(), gone))
	l := s.Ledger()
	known := func() int {
		runs, err := l.List(t.Context())
		require.NoError(t, err)
		return len(runs[name])
	}
	require.Equal(t, 2, known())
	require.NoError(t, s.Delete(t.Context(), name, gone.ID))
	require.Equal(t, 1, known())
	got, err := s.Get(t.Context(), name, "")
	require.NoError(t, err)
	require.Equal(t, kept.ID, got.ID)
	_, err = s.Get(t.Context(), name, gone.ID)
	require.ErrorIs(t, err, ErrNotFound)

	// This also holds for a run of which some chunks were published.
	require.NoError(t, s.Put(t.Context(), gone))
	require.NoError(t, s.End(t.Context(), name, gone.ID, StateCancelled))
	got, err = s.Get(t.Context(), name, "")
	require.NoError(t, err)
	require.Equal(t, kept.ID, got.ID)
}

func TestProgress(t *testing.T) {
	s, _ := open(t)
	a := subject.NewAddress(name, "r1", strings.Repeat("registry.", 20), "1")
	got, _, err := s.Progress(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, Progress{}, got)
	want := Progress{
		State: Snoozed, Images: Tally{Total: 9, Copied: 1, Tagged: 1, Unchanged: 1, Skipped: 1, Failed: 1}, Pulls: 4, Bytes: 5,
		Due: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Updated: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
	}
	require.NoError(t, s.Record(t.Context(), a, want))
	got, _, err = s.Progress(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, 5, got.Images.Ended())
}

// TestForeignEntries: a foreign entry in the bucket counts neither as a run nor as progress, and
// hides no other entry.
func TestForeignEntries(t *testing.T) {
	server := brokertest.Start(t)
	b := brokertest.Open(t, server.Config())
	s, err := Open(t.Context(), b)
	require.NoError(t, err)
	now := time.Now().UTC()
	r := Run{Name: name, ID: NewID(now), Kind: KindPlan, Chunks: 1, Started: now, Published: true}
	require.NoError(t, s.Put(t.Context(), r))
	a := subject.NewAddress(name, r.ID, "quay.io", "1")
	require.NoError(t, s.Record(t.Context(), a, Progress{State: Done, Images: Tally{Total: 1, Copied: 1}}))
	run := `{"name":"default","run":"20991231-000000-000-0000","kind":"plan"}`
	for _, header := range []string{"", "NATS/1.0\r\nnone\r\n\r\n", "NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: x\r\n\r\n"} {
		for _, key := range []string{
			name + ".x", name + ".20991231-000000-000-0001", "other.20991231-000000-000-0000", "NO.x", name + ".\x1b[2J", name, sweepKey,
			name + "." + r.ID + ".quay=2Eio.2", name + "." + r.ID + ".quay=2Eio", name + "." + r.ID + ".a.b.c",
		} {
			for _, data := range []string{"", "\xff\xfe", "[]", "{}", run} {
				server.Alien(t, "$KV."+Bucket+"."+key, header, []byte(data))
			}
		}
	}
	runs, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, []Run{r}, runs)
	_, err = s.Get(t.Context(), name, "x")
	require.ErrorIs(t, err, ErrNotFound)
	p, _, err := s.Progress(t.Context(), subject.NewAddress(name, r.ID, "quay.io", "2"))
	require.NoError(t, err)
	require.Zero(t, p.Images)
	tracker, err := s.Track(t.Context(), name, r.ID)
	require.NoError(t, err)
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, StateDone, st.State)
	require.Equal(t, Tally{Total: 1, Copied: 1}, st.Images)
	require.Equal(t, Chunks{Total: 1, Done: 1}, st.Chunks)
	l := s.Ledger()
	for range 2 {
		known, err := l.List(t.Context())
		require.NoError(t, err)
		require.Len(t, known, 1)
		require.Len(t, known[name], 1)
	}
	_, err = s.ClaimSweep(t.Context(), now.Add(time.Hour), time.Minute)
	require.NoError(t, err)
	_, err = s.Overdue(t.Context(), now)
	require.NoError(t, err)
	require.NoError(t, s.End(t.Context(), name, r.ID, StateCancelled))
}
