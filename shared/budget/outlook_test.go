package budget

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

// seconds are times so many seconds after the epoch.
func seconds(at ...int) []time.Time {
	times := make([]time.Time, len(at))
	for i, s := range at {
		times[i] = time.Unix(int64(s), 0)
	}
	return times
}

// last is lastPull of tokens that are all known, the oldest first.
func last(t *testing.T, from time.Time, limit int, held time.Duration, spent []time.Time, n int) time.Time {
	t.Helper()
	at, err := lastPull(from, limit, held, len(spent), n, func(i int) (time.Time, error) { return spent[i-1], nil })
	require.NoError(t, err)
	return at
}

func TestLastPull(t *testing.T) {
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
		got := last(t, seconds(c.from)[0], c.limit, held*time.Second, seconds(c.spent...), c.n)
		require.Equal(t, seconds(c.want)[0], got, name)
	}
}

// TestLastPullIsExact: it is what pulling one by one, each as soon as the window
// allows it, comes to.
func TestLastPullIsExact(t *testing.T) {
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
				at = later(at, window[n].Add(held))
			}
			window = append(window, at)
			require.Equal(t, at, last(t, from, limit, held, spent, n), "seed %d, pull %d", seed, n)
		}
	}
}

func TestOutlook(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	at := func(o Outlook, n int) time.Duration {
		last, err := o.Last(t.Context(), n)
		require.NoError(t, err)
		return last.Sub(o.from)
	}
	look := func(registry string, set Limit) Outlook {
		o, err := s.Outlook(t.Context(), registry, "", set)
		require.NoError(t, err)
		return o
	}
	o := look(registry, Limit{})
	require.Equal(t, None, o.Origin)
	require.Zero(t, at(o, 1000))

	o = look(quay, Limit{})
	require.Equal(t, []any{Limit{45, time.Second}, Documented, false}, []any{o.Limit, o.Origin, o.Counted})
	require.Equal(t, 2*time.Second, at(o, 91))

	// Set without the broker's knowing, nothing is spent of it.
	o = look(registry, Limit{4, time.Hour})
	require.Equal(t, []any{Set, true, 4}, []any{o.Origin, o.Counted, o.Free()})
	held := time.Hour + slack(time.Hour) + expiryDelay
	require.Equal(t, 2*held, at(o, 9))

	require.NoError(t, s.Learn(t.Context(), registry, "", Quota{Limit: Limit{4, time.Hour}, Remaining: 4}))
	o = look(registry, Limit{})
	require.Equal(t, []any{Learned, 0}, []any{o.Origin, o.Spent}, "nothing was taken yet")
	var tokens []Token
	for range 4 {
		token, err := s.Take(t.Context(), "", registry, "")
		require.NoError(t, err)
		tokens = append(tokens, token)
	}
	require.NoError(t, tokens[0].GiveBack(t.Context()))
	require.NoError(t, tokens[2].GiveBack(t.Context()))
	o = look(registry, Limit{})
	require.Equal(t, []any{2, 2}, []any{o.Spent, o.Free()})
	for i, token := range []Token{tokens[1], tokens[3]} {
		m, err := token.stream.GetMsg(t.Context(), token.sequence)
		require.NoError(t, err)
		got, err := o.Last(t.Context(), 3+i)
		require.NoError(t, err)
		require.Equal(t, m.Time.Add(held), got)
	}

	require.NoError(t, s.Refused(t.Context(), Call{Registry: registry, Kind: Pull, Started: s.clock.local()}, 10*time.Minute, "429"))
	require.WithinDuration(t, s.Now().Add(10*time.Minute), look(registry, Limit{}).from, time.Second)
}

// TestDescribe: what is left of a run, and what the registries allow, come together.
func TestDescribe(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]Limit{registry: {4, time.Hour}, "spent.example": {1, time.Hour}}))
	_, err := s.Take(t.Context(), "", "spent.example", "")
	require.NoError(t, err)
	describe := func(due time.Duration, rows ...run.Registry) run.Status {
		status := run.Status{Registries: rows}
		status.NotBefore(s.Now().Add(due))
		require.NoError(t, s.Describe(t.Context(), &status))
		return status
	}
	held := time.Hour + slack(time.Hour) + expiryDelay

	status := describe(-time.Minute, run.Registry{Registry: registry, ToPull: 4}, run.Registry{Registry: quay, ToPull: 450, ToPullAtLeast: true}, run.Registry{Registry: "free.example", ToPull: 1000})
	require.True(t, status.EstimatedAtLeast)
	free := func(n int) *int { return &n }
	require.Len(t, status.Registries, 4)
	require.Equal(t, run.Registry{Registry: "free.example", ToPull: 1000}, status.Registries[0])
	require.Equal(t, run.Registry{Registry: registry, Limit: 4, Window: "1h", Free: free(4), ToPull: 4}, status.Registries[2])
	spent := status.Registries[3]
	require.Equal(t, []any{"spent.example", 1, 0}, []any{spent.Registry, spent.Spent, *spent.Free})
	require.WithinDuration(t, s.Now().Add(held), *spent.NextSlot, 10*time.Second)
	require.Nil(t, spent.EstimatedDone, "the run wants nothing of it")
	atQuay := status.Registries[1]
	require.Equal(t, []any{45, "1s", 450}, []any{atQuay.Limit, atQuay.Window, atQuay.ToPull})
	require.Equal(t, status.EstimatedDone, atQuay.EstimatedDone)

	status = describe(2*time.Hour, run.Registry{Registry: registry, ToPull: 5})
	require.WithinDuration(t, s.Now().Add(held), *status.Registries[0].EstimatedDone, 10*time.Second)
	require.WithinDuration(t, s.Now().Add(2*time.Hour), *status.EstimatedDone, 10*time.Second)

	status = describe(-time.Minute, run.Registry{Registry: registry, ToPull: 3})
	require.Nil(t, status.EstimatedDone, "nothing is in its way")
	status = describe(-time.Minute, run.Registry{Registry: "spent.example", ToPullAtLeast: true})
	require.Equal(t, *status.Registries[1].NextSlot, *status.EstimatedDone, "whatever it is, it begins then")
}
