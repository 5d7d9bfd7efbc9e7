package budget

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// event is an event of a simulation.
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

// limiter reports whether a registry answers a request that arrives at a time.
type limiter func(time.Time) bool

// slidingWindow allows n requests in any window.
func slidingWindow(l Limit) limiter {
	var answered []time.Time
	return func(now time.Time) bool {
		for len(answered) > 0 && now.Sub(answered[0]) >= l.Window {
			answered = answered[1:]
		}
		if len(answered) >= l.Requests {
			return false
		}
		answered = append(answered, now)
		return true
	}
}

// fixedWindow allows n requests in each window of the clock.
func fixedWindow(l Limit) limiter {
	var window time.Time
	answered := 0
	return func(now time.Time) bool {
		if w := now.Truncate(l.Window); w.After(window) {
			window, answered = w, 0
		}
		answered++
		return answered <= l.Requests
	}
}

// leaky is nginx's limit_req with nodelay, which is equal to a token bucket of the size burst+1.
func leaky(r Rate) limiter {
	tokens, last := float64(r.Burst+1), time.Time{}
	return func(now time.Time) bool {
		if !last.IsZero() {
			tokens = min(float64(r.Burst+1), tokens+now.Sub(last).Seconds()*r.Rate)
		}
		last = now
		if tokens < 1 {
			return false
		}
		tokens--
		return true
	}
}

// brokerTrip is the simulated round trip to the broker.
const brokerTrip = 5 * time.Millisecond

// simulation is a fleet and a registry that does not state its limit, in simulated time. It
// computes rates and backoff as a Store does at the broker.
type simulation struct {
	start, now time.Time
	agenda     agenda
	random     *rand.Rand

	answers   limiter
	roundTrip time.Duration
	refused   int
	left      int

	found  found
	count  int
	closed time.Time
	next   time.Time // slot of the lane
	sent   int       // slots since the rate grows
	took   latency   // of the last answers
	slot   time.Time // when it was reserved; zero: none yet
	free   time.Time // when the rate was found to be no limit
}

func (m *simulation) later(d time.Duration, what func()) {
	heap.Push(&m.agenda, event{m.now.Add(d), what})
}

// sample counts the cases of a test. With the race detector, which makes simulations ten times as slow and
// finds nothing in one goroutine, only every seventh case runs.
type sample int

func (n *sample) skips() bool {
	*n++
	return raceEnabled && *n%7 != 1
}

// run pulls images, several at once, until all are mirrored, and returns how long that took.
func (m *simulation) run(atOnce, images int) time.Duration {
	m.start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m.now, m.left = m.start, images
	m.found = found{Rate: firstRate, From: m.start}
	for range atOnce {
		m.later(0, m.work)
	}
	for m.left > 0 {
		e := heap.Pop(&m.agenda).(event)
		m.now = e.at
		e.what()
	}
	return m.now.Sub(m.start)
}

// rate returns the rate at which the next slot is reserved, and how far ahead.
func (m *simulation) rate() (rate float64, horizon time.Duration, limited bool) {
	rate, limited = m.found.current(m.now)
	horizon = maxWait
	if grows := m.found.growing(m.now); grows != (growing{}) {
		horizon = m.found.horizon(m.now)
		rate = grows.rate(float64(m.raised(grows)), m.latency())
		if rate >= unlimited {
			m.found, m.free, limited = found{Rate: unlimited, From: m.now}, m.now, false
		}
	}
	if m.count > 0 && (!limited || probeRate < rate) {
		rate, horizon, limited = probeRate, foundHorizon, true
	}
	return rate, horizon, limited
}

// raised returns how many requests have raised the rate.
func (m *simulation) raised(grows growing) int {
	if !m.slot.After(grows.since) {
		return 0
	}
	return m.sent
}

func (m *simulation) latency() time.Duration {
	if known := time.Duration(m.took.Load()); known > 0 {
		return known
	}
	return assumedLatency
}

func (m *simulation) work() {
	if m.now.Before(m.closed) {
		m.later(m.closed.Sub(m.now)+time.Duration(m.random.Int64N(int64(time.Second))), m.work)
		return
	}
	rate, horizon, limited := m.rate()
	slot := m.now
	if limited {
		slot = latest(m.next, m.now.Add(brokerTrip))
		if ahead := slot.Sub(m.now); ahead > horizon {
			m.later(ahead-horizon+time.Duration(m.random.Int64N(int64(horizon))), m.work)
			return
		}
		if grows := m.found.growing(m.now); grows != (growing{}) {
			m.sent = m.raised(grows) + 1
		}
		m.next, m.slot = slot.Add(interval(rate)), m.now.Add(brokerTrip)
	}
	m.later(slot.Sub(m.now), func() {
		if m.now.Before(m.closed) {
			m.work()
			return
		}
		started := m.now
		m.later(m.delay(), func() { m.arrive(started) })
	})
}

// delay returns how long a request or an answer takes to arrive.
func (m *simulation) delay() time.Duration {
	return m.roundTrip/4 + time.Duration(m.random.Int64N(int64(m.roundTrip/2)))
}

func (m *simulation) arrive(started time.Time) {
	answered := m.answers(m.now)
	if answered {
		m.left--
	} else {
		m.refused++
	}
	m.later(m.delay(), func() {
		m.took.add(m.now.Sub(started))
		switch fresh := !started.Before(m.closed); {
		case answered && fresh:
			m.count = 0
		case fresh:
			m.later(brokerTrip, func() { m.refuse(started) })
		}
		m.work()
	})
}

// refuse closes the registry for the fleet.
func (m *simulation) refuse(started time.Time) {
	if started.Before(m.closed) {
		return // by others that were refused together
	}
	m.count++
	closed := backoff(m.count, maxBackoff, func(d time.Duration) time.Duration { return time.Duration(m.random.Int64N(int64(d))) })
	c, last := closure{Count: m.count, Duration: closed}, reached{rate: m.found.Rate}
	if grows := m.found.growing(m.now); grows != (growing{}) {
		sent := float64(m.raised(grows))
		last = reached{grows.rate(sent, m.latency()), sent}
	}
	m.found = m.found.refused(m.now, c, last)
	m.closed = m.now.Add(closed)
}

func TestUnknownLimitIsFound(t *testing.T) {
	t.Parallel()
	var cases sample
	for _, c := range []struct {
		limit          Limit
		atOnce, images int
		slowest        time.Duration
	}{
		{Limit{60, 10 * time.Second}, 8, 600, 6 * time.Minute},
		{Limit{60, 10 * time.Second}, 64, 600, 6 * time.Minute},
		{Limit{60, 10 * time.Second}, 64, 6000, 40 * time.Minute},
		{Limit{5, time.Second}, 8, 600, 6 * time.Minute},
		{Limit{300, time.Minute}, 64, 3000, 20 * time.Minute},
	} {
		for seed := range uint64(5) {
			if cases.skips() {
				continue
			}
			m := &simulation{answers: slidingWindow(c.limit), roundTrip: 100 * time.Millisecond, random: rand.New(rand.NewPCG(seed, 1))}
			took := m.run(c.atOnce, c.images)
			require.Less(t, 100*m.refused, 4*(c.images+m.refused), "%s, %d at once, seed %d: %d of %d refused", c.limit, c.atOnce, seed, m.refused, c.images+m.refused)
			require.Less(t, took, c.slowest, "%s, %d at once, seed %d", c.limit, c.atOnce, seed)
		}
	}
}

// TestUnlimitedIsFastSoon: three seconds after its first pull, a fleet pulls as fast as it can
// from a registry without limits.
func TestUnlimitedIsFastSoon(t *testing.T) {
	t.Parallel()
	for _, roundTrip := range roundTrips {
		for _, atOnce := range fleets {
			sent := 0
			m := &simulation{roundTrip: roundTrip, random: rand.New(rand.NewPCG(1, 1))}
			m.answers = func(now time.Time) bool {
				if since := now.Sub(m.start); since >= 3*time.Second && since < 4*time.Second {
					sent++
				}
				return true
			}
			m.run(atOnce, 20000)
			require.Greater(t, float64(sent), 0.9*float64(atOnce)/roundTrip.Seconds(), "%s, %d at once", roundTrip, atOnce)
			require.Zero(t, m.refused)
		}
	}
}

// A worker pulls 8 images at once, as one does by default; 8 workers pull 64.
var (
	roundTrips = []time.Duration{10 * time.Millisecond, 40 * time.Millisecond, 100 * time.Millisecond}
	fleets     = []int{8, 64}
)

// TestLimitOfAMinuteRefusesFew: less than 1 % of ten minutes' pulls is refused while a fleet finds
// the limit.
func TestLimitOfAMinuteRefusesFew(t *testing.T) {
	t.Parallel()
	const allowed, minutes, seeds = 300, 10, 5
	var cases sample
	for _, roundTrip := range roundTrips {
		for _, atOnce := range fleets {
			if cases.skips() {
				continue
			}
			refused := 0
			for seed := range uint64(seeds) {
				m := &simulation{answers: leaky(Rate{Rate: allowed / 60., Burst: allowed - 1}), roundTrip: roundTrip, random: rand.New(rand.NewPCG(seed, 1))}
				m.run(atOnce, minutes*allowed)
				refused += m.refused
			}
			require.Less(t, 100*refused, seeds*minutes*allowed+refused, "%s, %d at once", roundTrip, atOnce)
		}
	}
}

// TestUnknownLimitRefusesFew: less than 1 % of a run is refused while a fleet finds the limit: of
// 3000 pulls, or of those that the registry allows in a minute.
func TestUnknownLimitRefusesFew(t *testing.T) {
	t.Parallel()
	var cases sample
	for _, allowed := range []int{5, 20, 50, 100, 200, 500} {
		images := max(3000, 60*allowed)
		for name, limit := range map[string]func() limiter{
			"fixed window":         func() limiter { return fixedWindow(Limit{allowed, time.Second}) },
			"sliding window":       func() limiter { return slidingWindow(Limit{allowed, time.Second}) },
			"nginx":                func() limiter { return leaky(Rate{Rate: float64(allowed), Burst: allowed / 5}) },
			"nginx, without burst": func() limiter { return leaky(Rate{Rate: float64(allowed)}) },
			"token bucket":         func() limiter { return leaky(Rate{Rate: float64(allowed), Burst: allowed - 1}) },
		} {
			for _, roundTrip := range roundTrips {
				for _, atOnce := range fleets {
					if cases.skips() {
						continue
					}
					m := &simulation{answers: limit(), roundTrip: roundTrip, random: rand.New(rand.NewPCG(uint64(allowed), 1))}
					took := m.run(atOnce, images)
					require.Less(t, 100*m.refused, images+m.refused, "%s of %d/s, %s, %d at once: %d of %d refused", name, allowed, roundTrip, atOnce, m.refused, images+m.refused)
					if name == "nginx, without burst" {
						continue // it refuses any two requests that arrive closer together than they were sent
					}
					fastest := min(float64(allowed), float64(atOnce)/roundTrip.Seconds())
					require.Greater(t, float64(images)/took.Seconds(), 0.45*fastest, "%s of %d/s, %s, %d at once", name, allowed, roundTrip, atOnce)
				}
			}
		}
	}
}
