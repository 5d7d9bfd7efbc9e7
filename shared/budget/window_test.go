package budget

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// overrun simulates tokens that leave the window when they have been held for a time, and whose
// requests arrive late, in any order. It returns the largest number of requests in any of the
// registry's windows.
func overrun(random *rand.Rand, limit Limit, held, delay time.Duration) int {
	var taken, arrived []time.Duration
	now := time.Duration(0)
	for range 40 * limit.Requests {
		now += time.Duration(random.ExpFloat64() * float64(limit.Window) / float64(4*limit.Requests))
		if n := len(taken) - limit.Requests; n >= 0 {
			now = max(now, taken[n]+held) // the window is full until then
		}
		taken = append(taken, now)
		arrived = append(arrived, now+time.Duration(random.Int64N(int64(delay)+1)))
	}
	slices.Sort(arrived)
	most, first := 0, 0
	for i, at := range arrived {
		for at-arrived[first] >= limit.Window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func TestSlackCoversWhatLiesBetween(t *testing.T) {
	t.Parallel()
	beyond := 0
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, seed))
		limit := Limit{1 + random.IntN(20), time.Second + time.Duration(random.Int64N(int64(10*time.Minute)))}
		s := slack(limit.Window)
		require.LessOrEqual(t, overrun(random, limit, limit.Window+s, s), limit.Requests, "seed %d, %s", seed, limit)
		if overrun(random, limit, limit.Window, s) > limit.Requests {
			beyond++
		}
	}
	require.Greater(t, beyond, 250, "without the slack the simulated registry is overrun")
}

func TestSlackIsBounded(t *testing.T) {
	for window, want := range map[time.Duration]time.Duration{
		time.Second: time.Second, 10 * time.Second: time.Second, time.Minute: 6 * time.Second, 6 * time.Hour: 30 * time.Second,
	} {
		require.Equal(t, want, slack(window), window)
	}
}

func TestTokensOfTheFleet(t *testing.T) {
	t.Parallel()
	stores := fleet(t, brokertest.Embedded(t), 3)
	require.NoError(t, stores[0].SetLimits(t.Context(), "default", map[string]Limit{registry: {10, time.Hour}}))
	var taken, refused atomic.Int64
	for _, s := range stores {
		require.NoError(t, s.CatchUp(t.Context()))
	}
	var workers sync.WaitGroup
	for _, s := range stores {
		for range 8 {
			workers.Go(func() {
				_, err := s.Take(t.Context(), "", registry, "")
				switch {
				case err == nil:
					taken.Add(1)
				case errors.As(err, new(*SpentError)):
					refused.Add(1)
				}
			})
		}
	}
	workers.Wait()
	require.EqualValues(t, 10, taken.Load())
	require.EqualValues(t, 14, refused.Load())
	_, err := stores[1].Take(t.Context(), "", registry, "another account")
	require.NoError(t, err, "identities have budgets of their own")
}

// TestTokenAtTheSlot: the next token is available at the slot in the error, and not long before.
func TestTokenAtTheSlot(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 5*time.Minute)
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]Limit{registry: {1, 2 * time.Second}}))
	take := func() error { _, err := s.Take(t.Context(), "", registry, ""); return err }
	before := time.Now()                          // the broker is in this process
	for err := take(); err != nil; err = take() { // the machine may be too busy to answer in time
		require.ErrorIs(t, err, broker.ErrUnreachable)
	}
	after := time.Now()
	slot := requireSpent(t, take()).Slot
	require.WithinRange(t, slot, before.Add(2*time.Second), after.Add(3*time.Second+expiryDelay))
	until(t.Context(), s, slot)
	require.NoError(t, take())
}

func TestGiveBackAndSlots(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	limit := Limit{4, time.Hour}
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]Limit{registry: limit}))
	var tokens []Token
	var dates []time.Time
	for range 4 {
		token, err := s.Take(t.Context(), "", registry, "")
		require.NoError(t, err)
		m, err := token.stream.GetMsg(t.Context(), token.sequence)
		require.NoError(t, err)
		tokens, dates = append(tokens, token), append(dates, m.Time)
	}
	held := limit.Window + slack(limit.Window) + expiryDelay
	expires := func(n int) time.Time {
		a, err := s.Allowance(t.Context(), registry, "", Limit{})
		require.NoError(t, err)
		at, err := a.Expires(t.Context(), n)
		require.NoError(t, err)
		return at
	}
	_, err := s.Take(t.Context(), "", registry, "")
	require.True(t, dates[0].Add(held).Equal(requireSpent(t, err).Slot))
	require.True(t, dates[2].Add(held).Equal(expires(3)))

	require.NoError(t, tokens[1].GiveBack(t.Context()))
	require.NoError(t, tokens[1].GiveBack(t.Context()), "twice does no harm")
	slot, err := s.window(registry, "").slot(t.Context(), s, limit)
	require.NoError(t, err)
	require.False(t, slot.After(time.Now()), "one is free already")
	require.True(t, dates[0].Add(held).Equal(expires(1)))
	require.True(t, dates[2].Add(held).Equal(expires(2)), "the gap is passed over")
	_, err = s.Take(t.Context(), "", registry, "")
	require.NoError(t, err)
	_, err = s.Take(t.Context(), "", registry, "")
	requireSpent(t, err)
}

func TestTokenGrowsOld(t *testing.T) {
	now := time.Now()
	token := Token{window: &window{}, slack: 4 * time.Second, taken: now, now: func() time.Time { return now }}
	require.True(t, token.fresh())
	require.Equal(t, now.Add(3*time.Second), token.deadline())
	within := token.Within(t.Context())
	require.NoError(t, within.Err())
	Sent(within)
	now = now.Add(time.Second + 1)
	require.False(t, token.fresh())

	token.taken = now.Add(-time.Hour)
	require.ErrorIs(t, context.Cause(token.Within(t.Context())), ErrLate)
	late := WithDeadline(t.Context(), now.Add(20*time.Millisecond))
	<-late.Done()
	require.ErrorIs(t, context.Cause(late), ErrLate)

	free := Token{}
	require.NoError(t, free.Within(t.Context()).Err())
	Sent(t.Context())
	require.NoError(t, free.GiveBack(t.Context()))
}

func TestLimitsChangeEverywhere(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	one, two := opened(t, b, 0), opened(t, b, time.Hour)
	set := func(mirror string, limits map[string]Limit) {
		require.NoError(t, one.SetLimits(t.Context(), mirror, limits))
	}
	is := func(want Limit, from Origin) {
		t.Helper()
		require.Eventually(t, func() bool {
			limit, origin := two.Limit(registry, "")
			return limit == want && origin == from
		}, patience, tick)
	}
	is(Limit{}, None)
	require.NoError(t, one.Learn(t.Context(), registry, "", Quota{Limit{100, time.Hour}, 100}))
	is(Limit{100, time.Hour}, Learned)
	set("default", map[string]Limit{registry: {50, time.Hour}})
	is(Limit{50, time.Hour}, Set)
	set("other", map[string]Limit{registry: {1, time.Minute}, "quay.io": {1, time.Second}})
	is(Limit{50, time.Hour}, Set) // the lower rate
	set("default", map[string]Limit{registry: {2, time.Hour}})
	is(Limit{2, time.Hour}, Set)
	for range 2 {
		_, err := two.Take(t.Context(), "", registry, "")
		require.NoError(t, err)
	}
	_, err := two.Take(t.Context(), "", registry, "")
	requireSpent(t, err)

	// The process that changes the limit also changes the stream, and no other process reverts
	// that.
	set("default", map[string]Limit{registry: {3, time.Hour}})
	_, err = two.Take(t.Context(), "", registry, "")
	require.NoError(t, err)
	set("default", map[string]Limit{registry: {1, time.Hour}})
	require.NoError(t, one.refresh(t.Context()))
	_, err = one.Take(t.Context(), "", registry, "")
	requireSpent(t, err)
	rows, err := one.Standings(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, rows[1].Spent, "what was spent stays spent")

	set("default", nil)
	is(Limit{1, time.Minute}, Set)
	set("other", nil)
	is(Limit{100, time.Hour}, Learned)
}

func TestSomebodyElseSpends(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	stores := fleet(t, b, 3)
	limit := Limit{2500, time.Hour}
	learn := func(remaining int) {
		t.Helper()
		var workers sync.WaitGroup
		for _, s := range stores {
			workers.Go(func() {
				if err := s.Learn(t.Context(), registry, "", Quota{limit, remaining}); err != nil {
					t.Error(err)
				}
			})
		}
		workers.Wait()
	}
	spent := func() int {
		rows, err := stores[0].Standings(t.Context())
		require.NoError(t, err)
		require.Len(t, rows, 1)
		return rows[0].Spent
	}
	learn(2500)
	require.Equal(t, 0, spent())
	for range 10 {
		_, err := stores[0].Take(t.Context(), "", registry, "")
		require.NoError(t, err)
	}
	learn(2495)
	require.Equal(t, 10, spent(), "five of ours have not arrived yet")
	learn(2489)
	require.Equal(t, 11, spent(), "filled in once, though three have heard it")
	learn(2)
	require.Equal(t, 2498, spent(), "in more than one batch")
	for range 2 {
		_, err := stores[1].Take(t.Context(), "", registry, "")
		require.NoError(t, err)
	}
	learn(1)
	_, err := stores[2].Take(t.Context(), "", registry, "")
	requireSpent(t, err)
}

func TestCatchUp(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	planner, worker := opened(t, b, 0), opened(t, b, time.Hour)
	worker.stop() // it receives no changes by itself
	worker.running.Wait()
	for n := range 3 {
		limit := Limit{n + 1, time.Hour}
		require.NoError(t, planner.SetLimits(t.Context(), "default", map[string]Limit{registry: limit}))
		require.NoError(t, planner.Refused(t.Context(), call(planner), time.Duration(n+1)*time.Minute, "no"))
		// Reading an entry for another reason must not make CatchUp miss the rest.
		_, err := atBroker(t, worker, registry)
		require.NoError(t, err)
		require.NoError(t, worker.CatchUp(t.Context()))
		got, _ := worker.Limit(registry, "")
		require.Equal(t, limit, got)
		require.True(t, closed(worker))
	}
	sent := b.Conn.Stats().OutMsgs
	require.NoError(t, worker.CatchUp(t.Context()))
	require.EqualValues(t, 2, b.Conn.Stats().OutMsgs-sent, "nothing new")
}

// TestNeverOverTheLimit: a fleet never exceeds the limit of a registry that counts exactly, while
// workers die between taking and spending a token, give tokens back, and spend them as late as
// allowed; the limit changes; the broker restarts; other clients spend.
func TestNeverOverTheLimit(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	var stores []*Store
	for i := range 4 {
		stores = append(stores, opened(t, brokertest.Open(t, server.Config()), time.Duration(i-2)*5*time.Minute))
	}
	r := &sliding{limit: Limit{12, time.Second}}
	set := func(n int) {
		require.NoError(t, stores[0].SetLimits(t.Context(), "default", map[string]Limit{registry: {n, time.Second}}))
	}
	set(12)
	for _, s := range stores {
		require.NoError(t, s.CatchUp(t.Context()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var spent atomic.Int64
	var workers sync.WaitGroup
	for i := range 8 {
		workers.Go(func() { spender(ctx, stores[i%len(stores)], r, &spent) })
	}
	reaches := func(n int64) {
		t.Helper()
		require.Eventually(t, func() bool { return spent.Load() >= n }, patience, tick)
	}
	reaches(14)
	r.set(Limit{20, time.Second}) // the registry allows more before the fleet knows
	set(20)
	reaches(spent.Load() + 21)
	server.Restart()
	require.Eventually(t, stores[0].b.Conn.IsConnected, patience, tick)
	reaches(spent.Load() + 21)
	// The registry allows less when the requests of earlier tokens have arrived.
	set(5)
	until(ctx, stores[0], stores[0].Now().Add(minSlack))
	r.set(Limit{5, time.Second})
	reaches(spent.Load() + 11)
	cancel()
	workers.Wait()
	require.Zero(t, r.refused)
}

// spender takes tokens and spends most of them.
func spender(ctx context.Context, s *Store, r *sliding, spent *atomic.Int64) {
	for ctx.Err() == nil {
		token, err := s.Take(ctx, "", registry, "")
		var refused *SpentError
		switch {
		case errors.As(err, &refused):
			until(ctx, s, refused.Slot.Add(rand.N(50*time.Millisecond)))
			continue
		case err != nil: // the broker is away
			until(ctx, s, s.Now().Add(20*time.Millisecond))
			continue
		}
		switch rand.N(8) {
		case 0: // killed
			continue
		case 1:
			_ = token.GiveBack(ctx)
			continue
		}
		deadline := token.deadline()
		until(ctx, s, s.clock.broker(deadline.Add(-rand.N(deadline.Sub(token.taken)))))
		if !s.clock.local().Before(deadline) {
			continue // aborted
		}
		if r.request() {
			spent.Add(1)
		}
	}
}
