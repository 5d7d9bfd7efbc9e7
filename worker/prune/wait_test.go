package prune_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// waiting gives the site a client that waits if it is limited, and returns the pauses.
func (s *site) waiting() *[]time.Duration {
	var pauses []time.Duration
	s.Registry = registry.NewClient(registry.Options{
		Insecure: []string{s.to.Host()},
		Guard: prune.Guard(func(_ context.Context, d time.Duration) error {
			pauses = append(pauses, d)
			return nil
		}),
	})
	return &pauses
}

// TestLimited: after a 429, the execution waits for as long as the destination requests.
func TestLimited(t *testing.T) {
	s := newSite(t)
	s.image("kept", "kept", 0)
	s.image("old", "old", 31)
	pauses := s.waiting()
	p := s.plan()
	s.to.Inject(registrytest.Fault{Match: deletions, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}, Times: 1})
	s.to.Inject(registrytest.Fault{Match: deletions, Status: http.StatusTooManyRequests, Times: 2})
	done, left, err := s.execute(p)
	require.NoError(t, err)
	require.Equal(t, prune.Outcome{Deleted: 1}, done)
	require.Equal(t, []string{"kept"}, left)
	require.Equal(t, []time.Duration{7 * time.Second, 2 * time.Second, 4 * time.Second}, *pauses)
}

// TestAway: if the destination is away, its tags are unfinished and not failed.
func TestAway(t *testing.T) {
	t.Parallel()
	limited := func(after string) registrytest.Fault {
		return registrytest.Fault{Match: deletions, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {after}}}
	}
	for name, fault := range map[string]registrytest.Fault{
		"503":                 {Match: deletions, Status: 503},
		"502":                 {Match: deletions, Status: 502},
		"504":                 {Match: deletions, Status: 504},
		"reset":               {Match: deletions, Reset: true},
		"503 to everything":   {Status: 503},
		"limited for ever":    limited("1"),
		"limited for an hour": limited("3600"),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.image("kept", "kept", 0)
			s.image("old", "old", 31)
			s.image("older", "older", 41)
			pauses := s.waiting()
			p := s.plan()
			mend := s.to.Inject(fault)
			done, left, err := s.execute(p)
			require.ErrorIs(t, err, prune.ErrAway)
			require.NotErrorIs(t, err, prune.ErrUndeleted)
			require.Equal(t, 4, exit.Code(err))
			require.Zero(t, done)
			require.Len(t, left, 3)
			require.Len(t, *pauses, map[string]int{"limited for ever": 7}[name])
			mend()
			done, left, err = s.execute(p)
			require.NoError(t, err)
			require.Equal(t, prune.Outcome{Deleted: 2}, done)
			require.Equal(t, []string{"kept"}, left)
		})
	}
}

// TestAwayInTheMiddle: tags that were deleted before the destination went away are counted, and
// count as gone in the next execution.
func TestAwayInTheMiddle(t *testing.T) {
	s := newSite(t)
	s.image("kept", "kept", 0)
	old := s.image("old", "old", 31)
	s.image("older", "older", 41)
	p := s.plan()
	deleted := false
	mend := s.to.Inject(registrytest.Fault{Status: 503, Match: func(r registrytest.Request) bool {
		before := deleted
		deleted = deleted || deletions(r) && r.Reference == old
		return before && (deletions(r) || r.Reference == "kept")
	}})
	done, left, err := s.execute(p)
	require.ErrorIs(t, err, prune.ErrAway)
	require.Equal(t, prune.Outcome{Deleted: 1}, done)
	require.ElementsMatch(t, []string{"kept", "older"}, left)
	mend()
	done, _, err = s.execute(p)
	require.NoError(t, err)
	require.Equal(t, prune.Outcome{Deleted: 1, Gone: 1}, done)
}

// TestLeftoverIsAway: a tag without a manifest counts as gone only when the destination has
// confirmed it.
func TestLeftoverIsAway(t *testing.T) {
	s := newSite(t)
	s.image("kept", "kept", 0)
	old := s.image("old", "old", 31)
	p := s.plan()
	require.NoError(t, s.to.DeleteManifest(tool, old))
	mend := s.to.Inject(registrytest.Fault{Match: deletions, Status: 503})
	done, left, err := s.execute(p)
	require.ErrorIs(t, err, prune.ErrAway)
	require.Zero(t, done)
	require.Contains(t, left, "old")
	mend()
	done, left, err = s.execute(p)
	require.NoError(t, err)
	require.Equal(t, prune.Outcome{Gone: 1}, done)
	require.Equal(t, []string{"kept"}, left)
}

// TestSourceIsAway: if the source is away, so that tags cannot be compared, they are unfinished,
// too.
func TestSourceIsAway(t *testing.T) {
	s := newSite(t)
	s.image("old", "old", 31)
	p := s.plan()
	s.failed = fmt.Errorf("list: %w", &budget.SpentError{Registry: "quay.io", Since: now, Reason: "503"})
	done, left, err := s.execute(p)
	require.ErrorIs(t, err, prune.ErrAway)
	require.ErrorContains(t, err, "quay.io has been away since")
	require.Zero(t, done)
	require.Equal(t, []string{"old"}, left)
}

// TestGuard: the guard does not wait if the registry is closed, limited for long, or unavailable.
func TestGuard(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		pauses int
	}{
		"closed":       {&budget.SpentError{Registry: "a", Slot: time.Now().Add(time.Second), Since: now}, 0},
		"spent":        {&budget.SpentError{Registry: "a", Slot: time.Now().Add(time.Second)}, 7},
		"spent for 6h": {&budget.SpentError{Registry: "a", Slot: time.Now().Add(6 * time.Hour)}, 0},
		"unavailable":  {&registry.Error{Status: 503, Err: registry.ErrUnavailable}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			pauses := 0
			guard := prune.Guard(func(context.Context, time.Duration) error { pauses++; return nil })
			require.Equal(t, test.err, guard(t.Context(), registry.Request{}, func() error { return test.err }))
			require.Equal(t, test.pauses, pauses)
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(prune.ErrTaken)
	limited := &registry.Error{Status: 429, Err: registry.ErrLimited}
	require.ErrorIs(t, prune.Guard(prune.Sleep)(ctx, registry.Request{}, func() error { return limited }), prune.ErrTaken)
}
