package estimate

import (
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	registry = "registry.example:5000"
	quay     = "quay.io"
)

func opened(t *testing.T) *budget.Store {
	t.Helper()
	s, err := budget.Open(t.Context(), brokertest.Embedded(t), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// seconds returns times n seconds after the epoch.
func seconds(at ...int) []time.Time {
	times := make([]time.Time, len(at))
	for i, s := range at {
		times[i] = time.Unix(int64(s), 0)
	}
	return times
}

// lastOf calls last for spent tokens, the oldest first.
func lastOf(t *testing.T, from time.Time, limit int, held time.Duration, spent []time.Time, n int) time.Time {
	t.Helper()
	at, err := last(from, limit, held, len(spent), n, func(i int) (time.Time, error) { return spent[i-1].Add(held), nil })
	require.NoError(t, err)
	return at
}

func TestLast(t *testing.T) {
	const held, now = 100, 1000
	for name, c := range map[string]struct {
		limit int
		spent []int
		from  int // now, or when the registry reopens
		n     int
		want  int
	}{
		"nothing spent":                          {10, nil, now, 10, now},
		"one more than the limit":                {10, nil, now, 11, now + held},
		"the last of the second turn":            {10, nil, now, 20, now + held},
		"the first of the third":                 {10, nil, now, 21, now + 2*held},
		"what is free":                           {4, []int{910, 950}, now, 2, now},
		"the place of the oldest":                {4, []int{910, 950}, now, 3, 1010},
		"of the next":                            {4, []int{910, 950}, now, 4, 1050},
		"a turn after the free ones":             {4, []int{910, 950}, now, 6, now + held},
		"a turn after the oldest's":              {4, []int{910, 950}, now, 7, 1110},
		"two turns after":                        {4, []int{910, 950}, now, 12, 1250},
		"closed: what is spent goes meanwhile":   {4, []int{910, 950}, 1200, 4, 1200},
		"closed: a turn after the reopening":     {4, []int{910, 950}, 1200, 5, 1300},
		"closed until the oldest has gone":       {2, []int{910, 950}, 1020, 2, 1050},
		"more spent than a limit that was lower": {2, []int{910, 920, 930, 940, 950}, now, 1, 1040},
		"and the next":                           {2, []int{910, 920, 930, 940, 950}, now, 4, 1150},
		"a limit of one":                         {1, []int{999}, now, 3, 1299},
	} {
		got := lastOf(t, seconds(c.from)[0], c.limit, held*time.Second, seconds(c.spent...), c.n)
		require.Equal(t, seconds(c.want)[0], got, name)
	}
}

// TestLastIsExact: last returns when the last pull is made if all are made as soon as the window
// allows it.
func TestLastIsExact(t *testing.T) {
	const held = 100 * time.Second
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, seed))
		limit, now := 1+random.IntN(8), time.Unix(1000, 0)
		var spent []time.Time
		for at := now.Add(-held); ; {
			if at = at.Add(time.Duration(random.Int64N(int64(held)))); at.After(now) {
				break
			}
			spent = append(spent, at)
		}
		from := now.Add(max(0, time.Duration(random.Int64N(int64(3*held)))-held))
		window := spent
		for n := 1; n <= 4*limit; n++ {
			at := from
			if n := len(window) - limit; n >= 0 {
				if freed := window[n].Add(held); freed.After(at) {
					at = freed
				}
			}
			window = append(window, at)
			require.Equal(t, at, lastOf(t, from, limit, held, spent, n), "seed %d, pull %d", seed, n)
		}
	}
}

// TestLastOfABudget: the last pull is made when the tokens of a real budget expire.
func TestLastOfABudget(t *testing.T) {
	t.Parallel()
	s := opened(t)
	at := func(a budget.Allowance, n int) time.Duration {
		last, err := Last(t.Context(), a, n)
		require.NoError(t, err)
		return last.Sub(a.Open)
	}
	look := func(registry string, set budget.Limit) budget.Allowance {
		a, err := s.Allowance(t.Context(), registry, "", set)
		require.NoError(t, err)
		return a
	}
	a := look(registry, budget.Limit{})
	require.Equal(t, budget.None, a.Origin)
	require.Zero(t, at(a, 1000))

	a = look(quay, budget.Limit{})
	require.Equal(t, []any{budget.Limit{Requests: 45, Window: time.Second}, budget.Documented, false}, []any{a.Limit, a.Origin, a.Counted()})
	require.Equal(t, 2*time.Second, at(a, 91))

	// If the broker does not have the limit, nothing of it is spent.
	a = look(registry, budget.Limit{Requests: 4, Window: time.Hour})
	require.Equal(t, []any{budget.Set, true, 4}, []any{a.Origin, a.Counted(), a.Free()})
	held := a.Held
	require.Equal(t, 2*held, at(a, 9))

	require.NoError(t, s.Learn(t.Context(), registry, "", budget.Quota{Limit: budget.Limit{Requests: 4, Window: time.Hour}, Remaining: 4}))
	a = look(registry, budget.Limit{})
	require.Equal(t, []any{budget.Learned, 0}, []any{a.Origin, a.Spent}, "nothing was taken yet")
	var tokens []budget.Token
	for range 4 {
		token, err := s.Take(t.Context(), "", registry, "")
		require.NoError(t, err)
		tokens = append(tokens, token)
	}
	require.NoError(t, tokens[0].GiveBack(t.Context()))
	require.NoError(t, tokens[2].GiveBack(t.Context()))
	a = look(registry, budget.Limit{})
	require.Equal(t, []any{2, 2}, []any{a.Spent, a.Free()})
	for i := range 2 {
		want, err := a.Expires(t.Context(), 1+i)
		require.NoError(t, err)
		require.WithinDuration(t, s.Now().Add(held), want, 10*time.Second)
		got, err := Last(t.Context(), a, 3+i)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}

	require.NoError(t, s.Refused(t.Context(), budget.Call{Registry: registry, Kind: budget.Pull, Started: time.Now()}, 10*time.Minute, "429"))
	require.WithinDuration(t, s.Now().Add(10*time.Minute), look(registry, budget.Limit{}).Open, 10*time.Second)
}

// TestDescribe: the status has the remaining work of a run and the limits of the registries.
func TestDescribe(t *testing.T) {
	t.Parallel()
	s := opened(t)
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]budget.Limit{registry: {Requests: 4, Window: time.Hour}, "spent.example": {Requests: 1, Window: time.Hour}}))
	_, err := s.Take(t.Context(), "", "spent.example", "")
	require.NoError(t, err)
	describe := func(due time.Duration, rows ...run.Registry) run.Status {
		status := run.Status{Registries: rows}
		status.NotBefore(s.Now().Add(due))
		require.NoError(t, Describe(t.Context(), s, &status))
		return status
	}
	hour, err := s.Allowance(t.Context(), registry, "", budget.Limit{})
	require.NoError(t, err)
	held := hour.Held

	status := describe(-time.Minute, run.Registry{Registry: registry, ToPull: 4}, run.Registry{Registry: quay, ToPull: 450, ToPullAtLeast: true}, run.Registry{Registry: "free.example", ToPull: 1000})
	require.True(t, status.EstimatedAtLeast)
	free := func(n int) *int { return &n }
	require.Len(t, status.Registries, 4)
	require.Equal(t, run.Registry{Registry: "free.example", ToPull: 1000}, status.Registries[0])
	require.Equal(t, run.Registry{Registry: registry, Limit: 4, Window: "1h", Free: free(4), ToPull: 4}, status.Registries[2])
	spent := status.Registries[3]
	require.Equal(t, []any{"spent.example", 1, 0}, []any{spent.Registry, spent.Spent, *spent.Free})
	require.WithinDuration(t, s.Now().Add(held), *spent.NextSlot, 10*time.Second)
	require.Nil(t, spent.EstimatedDone, "the run pulls nothing from it")
	atQuay := status.Registries[1]
	require.Equal(t, []any{45, "1s", 450}, []any{atQuay.Limit, atQuay.Window, atQuay.ToPull})
	require.Equal(t, status.EstimatedDone, atQuay.EstimatedDone)

	status = describe(2*time.Hour, run.Registry{Registry: registry, ToPull: 5})
	require.WithinDuration(t, s.Now().Add(held), *status.Registries[0].EstimatedDone, 10*time.Second)
	require.WithinDuration(t, s.Now().Add(2*time.Hour), *status.EstimatedDone, 10*time.Second)

	status = describe(-time.Minute, run.Registry{Registry: registry, ToPull: 3})
	require.Nil(t, status.EstimatedDone, "nothing delays it")
	status = describe(-time.Minute, run.Registry{Registry: "spent.example", ToPullAtLeast: true})
	require.Equal(t, *status.Registries[1].NextSlot, *status.EstimatedDone, "the first pull")
}
