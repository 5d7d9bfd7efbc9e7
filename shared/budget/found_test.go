package budget

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// event is what happens at a time of a simulation.
type event struct {
	at   time.Time
	what func()
}

type agenda []event

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	old := *a
	last := old[len(old)-1]
	*a = old[:len(old)-1]
	return last
}

// simulation is a fleet and a registry that does not state its limit, in simulated
// time. It does with rates and backoff what a Store does by way of the broker.
type simulation struct {
	now    time.Time
	agenda agenda
	random *rand.Rand

	limit   Limit
	latency time.Duration
	pulls   []time.Time // those of the registry's window
	refused int
	left    int

	found  found
	count  int
	closed time.Time
	next   time.Time // slot of the lane
}

func (m *simulation) latest(d time.Duration, what func()) {
	heap.Push(&m.agenda, event{m.now.Add(d), what})
}

// run has workers pull images until all are mirrored, and returns how long it took.
func (m *simulation) run(workers, images int) time.Duration {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m.now, m.left = start, images
	m.found = found{Rate: firstRate, From: start}
	for range workers {
		m.latest(0, m.work)
	}
	for m.left > 0 {
		e := heap.Pop(&m.agenda).(event)
		m.now = e.at
		e.what()
	}
	return m.now.Sub(start)
}

func (m *simulation) work() {
	if m.now.Before(m.closed) {
		m.latest(m.closed.Sub(m.now)+time.Duration(m.random.Int64N(int64(time.Second))), m.work)
		return
	}
	rate, limited := m.found.current(m.now)
	if m.count > 0 && (!limited || probeRate < rate) {
		rate, limited = probeRate, true
	}
	slot := m.now
	if limited {
		slot = latest(m.next, m.now)
		if slot.Sub(m.now) > maxWait {
			m.latest(slot.Sub(m.now), m.work)
			return
		}
		m.next = slot.Add(interval(rate))
	}
	m.latest(slot.Sub(m.now), func() {
		if m.now.Before(m.closed) {
			m.work()
			return
		}
		m.latest(m.delay(), func() { m.arrive(m.now) })
	})
}

func (m *simulation) delay() time.Duration {
	return m.latency/2 + time.Duration(m.random.Int64N(int64(m.latency)))
}

func (m *simulation) arrive(started time.Time) {
	for len(m.pulls) > 0 && m.now.Sub(m.pulls[0]) >= m.limit.Window {
		m.pulls = m.pulls[1:]
	}
	refused := len(m.pulls) >= m.limit.Requests
	if refused {
		m.refused++
	} else {
		m.pulls = append(m.pulls, m.now)
		m.left--
	}
	m.latest(m.delay(), func() {
		fresh := !started.Before(m.closed)
		switch {
		case refused && fresh:
			m.count++
			closed := backoff(m.count, maxBackoff, func(d time.Duration) time.Duration { return time.Duration(m.random.Int64N(int64(d))) })
			m.found = m.found.refused(m.now, closure{Count: m.count, Duration: closed}, firstRate)
			m.closed = m.now.Add(closed)
		case !refused && fresh:
			m.count = 0
		}
		m.work()
	})
}

func TestUnknownLimitIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit           Limit
		workers, images int
		slowest         time.Duration
	}{
		{Limit{60, 10 * time.Second}, 8, 600, 6 * time.Minute},
		{Limit{60, 10 * time.Second}, 64, 600, 6 * time.Minute},
		{Limit{60, 10 * time.Second}, 64, 6000, 40 * time.Minute},
		{Limit{5, time.Second}, 8, 600, 6 * time.Minute},
		{Limit{300, time.Minute}, 64, 3000, 20 * time.Minute},
	} {
		for seed := range uint64(50) {
			m := &simulation{limit: c.limit, latency: 200 * time.Millisecond, random: rand.New(rand.NewPCG(seed, 1))}
			took := m.run(c.workers, c.images)
			require.Less(t, 100*m.refused, 4*(c.images+m.refused), "%s, %d workers, seed %d: %d of %d refused", c.limit, c.workers, seed, m.refused, c.images+m.refused)
			require.Less(t, took, c.slowest, "%s, %d workers, seed %d", c.limit, c.workers, seed)
		}
	}
}

func TestRateOverTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(f found, d time.Duration) float64 {
		rate, limited := f.current(now.Add(d))
		if !limited {
			return 0
		}
		return rate
	}
	first := found{Rate: firstRate, From: now}
	require.InDelta(t, firstRate, at(first, -time.Hour), 0.01, "a closed registry's rate waits")
	require.InDelta(t, 4*firstRate, at(first, 2*doubling), 0.01)
	require.Zero(t, at(first, time.Minute), "no limit")

	slower := first.refused(now.Add(doubling), closure{Count: 1, Duration: 5 * time.Second}, firstRate)
	require.InDelta(t, firstRate, at(slower, doubling+5*time.Second), 0.01)
	require.InDelta(t, 2*firstRate, at(slower, doubling+5*time.Second+creeping), 0.01)
	again := slower.refused(now.Add(creeping), closure{Count: 2, Duration: time.Minute}, firstRate)
	require.InDelta(t, firstRate, at(again, creeping+time.Minute), 0.01, "full still: not slower, and not faster")
	soon := slower.refused(now.Add(doubling+6*time.Second), closure{Count: 2, Duration: time.Minute}, firstRate)
	require.InDelta(t, slower.Sent/(doubling+66*time.Second).Seconds(), soon.Rate, 0.01, "what was sent is all that it allows until then")
	require.Less(t, soon.Rate, slower.Rate)
	require.Zero(t, at(slower, 25*time.Hour), "forgotten")
	require.True(t, first.counts(now.Add(29*24*time.Hour)), "nothing was refused")
	require.False(t, first.counts(now.Add(31*24*time.Hour)))
	require.InDelta(t, firstRate/2, at(first.refused(now.Add(time.Minute), closure{Count: 1}, firstRate), time.Minute), 0.01)

	slow := found{Rate: 2 * slowest, From: now}
	for range 3 {
		slow = slow.refused(now, closure{Count: 1}, firstRate)
	}
	require.InDelta(t, slowest, at(slow, 0), 0.0001)
	require.InDelta(t, 1.04*slowest, at(slow, time.Hour), 0.0001, "it creeps up by requests, not by time")
}

// TestFleetFindsALimit is the real thing, with a limit that is found in seconds.
func TestFleetFindsALimit(t *testing.T) {
	t.Parallel()
	stores := fleet(t, brokertest.Embedded(t), 8)
	r := &sliding{limit: Limit{15, time.Second}}
	var left atomic.Int64
	left.Store(90)
	var workers sync.WaitGroup
	for i := range 16 {
		s := stores[i%len(stores)]
		workers.Go(func() {
			for left.Load() > 0 {
				_, err := s.Take(t.Context(), "", registry, "")
				var spent *SpentError
				if errors.As(err, &spent) {
					until(t.Context(), s, spent.Slot)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				c := call(s)
				if r.request() {
					left.Add(-1)
					s.Succeeded(c)
				} else if err := s.Refused(t.Context(), c, 0, "no"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	require.NotZero(t, r.refused, "the limit was never reached")
	require.Less(t, r.refused, 7)
	limit, origin := stores[3].Limit(registry, "")
	require.Equal(t, Found, origin)
	require.InDelta(t, 12, limit.Requests, 8)
	rows, err := stores[4].Standings(t.Context())
	require.NoError(t, err)
	require.Equal(t, "1s", rows[0].Limit.Per())
	require.InDelta(t, limit.Requests, rows[0].Limit.Requests, 2)
}

func TestNoLimitCostsNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	clock := &movable{}
	s := openedAt(t, b, clock.now)
	_, err := s.Take(t.Context(), "", registry, "")
	require.NoError(t, err)
	clock.move(time.Minute)
	require.NoError(t, s.Pace(t.Context(), "docker.io", Manifest))
	sent := b.Conn.Stats().OutMsgs
	for range 100 {
		_, err := s.Take(t.Context(), "", registry, "")
		require.NoError(t, err)
		require.NoError(t, s.Pace(t.Context(), registry, Tags))
		s.Succeeded(call(s))
	}
	require.Equal(t, sent, b.Conn.Stats().OutMsgs)
}

func TestStandings(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]Limit{registry: {2, time.Hour}, "quay.io": {20, time.Second}}))
	require.NoError(t, s.Learn(t.Context(), "docker.io", "", Quota{Limit{100, 6 * time.Hour}, 100}))
	require.NoError(t, s.Learn(t.Context(), "docker.io", "account", Quota{Limit{200, 6 * time.Hour}, 7}))
	for range 2 {
		_, err := s.Take(t.Context(), "", registry, "")
		require.NoError(t, err)
	}
	rows, err := s.Standings(t.Context())
	require.NoError(t, err)
	require.Len(t, rows, 3)
	require.Equal(t, "docker.io", rows[0].Registry)
	require.Equal(t, 200, rows[0].Limit.Requests)
	require.Equal(t, 193, rows[0].Spent)
	require.Equal(t, "6h", rows[0].Limit.Per())
	require.Zero(t, rows[0].NextSlot)
	require.Equal(t, "quay.io", rows[1].Registry)
	require.Zero(t, rows[1].Spent)
	require.Equal(t, registry, rows[2].Registry)
	require.Equal(t, 2, rows[2].Spent)
	require.WithinDuration(t, s.Now().Add(time.Hour+maxSlack), rows[2].NextSlot, 2*time.Second)
	require.False(t, rows[2].Closed)
}

// TestRefusedTogether: requests that were under way together are refused together, each
// a little later than the one before, and halve the rate once.
func TestRefusedTogether(t *testing.T) {
	b := brokertest.Embedded(t)
	s := opened(t, b, 0)
	for range 13 {
		require.NoError(t, s.Refused(t.Context(), Call{Registry: "registry.example.com", Kind: Pull, Started: time.Now()}, time.Minute, "429"))
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	require.InDelta(t, firstRate/2, s.view.found[line{"registry.example.com", Pull, HTTP1}.foundKey()].Rate, 0.01)
}
