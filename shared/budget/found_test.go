package budget

import (
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

func TestRateByRequests(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(f found, d time.Duration) float64 {
		rate, limited := f.current(now.Add(d))
		if !limited {
			return 0
		}
		return rate
	}
	first := found{Rate: firstRate, From: now}
	require.InDelta(t, firstRate, at(first, 29*24*time.Hour), 0.01, "it grows by requests, not by time")
	require.Equal(t, growing{since: now, from: firstRate}, first.growing(now))
	require.Zero(t, at(first, 31*24*time.Hour), "forgotten")
	proven := found{Rate: unlimited, From: now}
	require.Zero(t, at(proven, time.Minute), "no limit")
	require.Zero(t, proven.growing(now))
	again := proven.again(now, closure{Count: 1, Duration: time.Second}, firstRate)
	require.True(t, again.explores(now), "that it has refused once does not show its limit")
	require.Equal(t, now.Add(2*time.Second), again.again(now, closure{Count: 2, Duration: 2 * time.Second}, 2*firstRate).From)
	require.InDelta(t, firstRate, at(again.refused(now, closure{Count: 2}, reached{rate: 2 * firstRate}), 0), 0.01, "refused together")

	const sent, until = 40, 2 * time.Second
	slower := first.refused(now.Add(until), closure{Count: 1, Duration: 5 * time.Second}, reached{3 * firstRate, sent})
	slowed := at(slower, until)
	require.InDelta(t, careful*sent/until.Seconds(), slowed, 0.01, "the part of the limit that was used")
	require.InDelta(t, slowed, at(slower, 29*24*time.Hour), 0.01)
	require.InDelta(t, sent, slower.Sent, 0.01)
	require.Equal(t, growing{now.Add(until + 5*time.Second), slowed, 1 / creeping.Seconds()}, slower.growing(now.Add(until)))
	soonest := first.refused(now.Add(until/8), closure{Count: 1}, reached{3 * firstRate, sent})
	require.InDelta(t, careful*sent, soonest.Rate, 0.01, "it may allow as many in a second")
	rarely := first.refused(now.Add(50*time.Second), closure{Count: 1}, reached{3 * firstRate, sent})
	require.InDelta(t, firstRate/lowered, rarely.Rate, 0.01, "few were wanted")
	full := slower.refused(now.Add(creeping), closure{Count: 2, Duration: time.Minute}, reached{rate: firstRate})
	require.InDelta(t, slowed, at(full, creeping+time.Minute), 0.01, "full still: not slower, and not faster")
	soon := slower.refused(now.Add(until+6*time.Second), closure{Count: 2, Duration: time.Minute}, reached{rate: firstRate})
	require.InDelta(t, slower.Sent/(until+66*time.Second).Seconds(), soon.Rate, 0.01, "what was sent is all that it allows until then")
	require.Less(t, soon.Rate, slower.Rate)

	const answered = 50.0
	empty := slower.refused(now.Add(until+10*time.Second), closure{Count: 1}, reached{slower.Rate, answered})
	require.InDelta(t, answered/7.5, empty.Rate, 0.01, "it answers no more between two refusals than it allows")
	hardly := slower.refused(now.Add(until+30*time.Second), closure{Count: 1}, reached{slower.Rate, significant})
	require.InDelta(t, slower.Rate/lowered, hardly.Rate, 0.02)
	noise := slower.refused(now.Add(until+30*time.Second), closure{Count: 1}, reached{slower.Rate, 1})
	require.InDelta(t, slower.Rate/2, noise.Rate, 0.01)
	later := slower.refused(now.Add(time.Hour), closure{Count: 1}, reached{slower.Rate, answered})
	require.InDelta(t, slower.Rate/2, later.Rate, 0.01, "it may have been idle")
}

// TestGrowing: few requests are under way until many were answered, however long that takes. After
// a refusal, the rate is low at first, and then hardly grows.
func TestGrowing(t *testing.T) {
	explores := growing{since: time.Now(), from: firstRate}
	for _, latency := range []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 250 * time.Millisecond} {
		last := 0.0
		for sent := range 4 * int(enough) {
			sent := float64(sent)
			rate := explores.rate(sent, latency)
			require.GreaterOrEqual(t, rate, last)
			last = rate
			if sent <= plenty {
				require.LessOrEqual(t, rate, max(firstRate, min(max(underWayFirst, underWayEach*sent), cautious)/latency.Seconds())+0.01)
			}
			if sent < enough {
				require.Less(t, rate, unlimited)
			}
		}
		require.GreaterOrEqual(t, last, unlimited)
	}
	creeps := growing{since: time.Now(), from: 100, by: 0.01}
	require.InDelta(t, firstRate, creeps.rate(0, 50*time.Millisecond), 0.01)
	require.InDelta(t, underWayAgain*40/0.05, creeps.rate(40, 50*time.Millisecond), 0.01)
	require.InDelta(t, 105, creeps.rate(500, 50*time.Millisecond), 0.01)
	slow := growing{since: time.Now(), from: 5, by: 0.01}
	require.InDelta(t, 5, slow.rate(0, 50*time.Millisecond), 0.01)
	require.InDelta(t, 0.001, found{Rate: 0.001 * creepingRequests, From: time.Now(), Refused: true}.growing(time.Now()).by, 0.0001)
}

func TestRateOverTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(f found, d time.Duration) float64 {
		rate, _ := f.at(now.Add(d))
		return rate
	}
	slower := found{ByTime: true}.refused(now, closure{Count: 1, Duration: 5 * time.Second}, reached{rate: 50})
	require.InDelta(t, 25, at(slower, -time.Hour), 0.01, "a closed registry's rate waits")
	require.InDelta(t, 50, at(slower, 5*time.Second+creeping), 0.01)
	require.Zero(t, at(slower, 25*time.Hour), "forgotten")
	require.Zero(t, slower.growing(now))

	slow := found{Rate: 2 * slowest, From: now, ByTime: true, Refused: true}
	for range 3 {
		slow = slow.refused(now, closure{Count: 1}, reached{rate: slow.Rate})
	}
	require.InDelta(t, slowest, at(slow, 0), 0.0001)
	require.Less(t, at(slow, time.Hour), 1.02*slowest, "it creeps up by requests, not by time")
}

// TestFleetFindsALimit: a fleet finds a real limit within seconds.
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
	require.InDelta(t, 12>>(r.refused-1), limit.Requests, 8, "each refusal halves it")
	rows, err := stores[4].Standings(t.Context())
	require.NoError(t, err)
	require.Equal(t, "1s", rows[0].Limit.Per())
	require.InDelta(t, limit.Requests, rows[0].Limit.Requests, 2)
}

// latencyOfTests is how long a registry takes to answer.
const latencyOfTests = 50 * time.Millisecond

// TestEachPullRaisesTheRate: pulls of all workers raise the rate together, no faster than their
// number allows, until it counts as unlimited. Then requests do not use the broker.
func TestEachPullRaisesTheRate(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 8} {
		t.Run(strconv.Itoa(workers), func(t *testing.T) {
			t.Parallel()
			requireGrowth(t, workers)
		})
	}
}

func requireGrowth(t *testing.T, n int) {
	t.Helper()
	b := brokertest.Embedded(t)
	stores := fleet(t, b, n)
	exploring := line{registry, Pull, HTTP1}
	free := func(s *Store) bool { return s.found(exploring).Rate >= unlimited }
	require.NoError(t, stores[0].PaceOver(t.Context(), registry, Pull, HTTP1))
	require.Zero(t, stores[0].found(exploring))
	require.NoError(t, stores[0].explore(t.Context(), exploring))
	for _, s := range stores {
		s.Took(registry, latencyOfTests)
	}
	var workers sync.WaitGroup
	for i := range 64 {
		s := stores[i%len(stores)]
		workers.Go(func() {
			for !free(s) {
				if err := s.PaceOver(t.Context(), registry, Pull, HTTP2); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	// The broker keeps the last reservations.
	lane, grows := stores[0].lane(exploring), growing{from: firstRate}
	next, err := stores[0].b.Next(t.Context(), streamPace, lane.subject, 1)
	var last reservation
	for read := 0; err == nil; read++ {
		r, ok := readReservation(next)
		require.True(t, ok)
		require.Less(t, 1/r.Every.Seconds(), unlimited)
		if read > 0 && r.Sent == 0 {
			break // its worker has learned meanwhile that there is no limit
		}
		if read > 0 {
			require.LessOrEqual(t, r.Sent, last.Sent+r.Count, "fewer if some came too late")
			require.LessOrEqual(t, r.start(next.Time).Sub(next.Time), exploreHorizon/2, "few messages a second")
			require.LessOrEqual(t, 1/r.Every.Seconds(), grows.rate(float64(last.Sent), latencyOfTests)+0.01)
		}
		last = r
		next, err = stores[0].b.Next(t.Context(), streamPace, lane.subject, next.Sequence+1)
	}
	if err != nil {
		require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
	}
	require.GreaterOrEqual(t, grows.rate(float64(last.Sent), latencyOfTests), unlimited)

	s := stores[n/2]
	require.Eventually(t, func() bool { return free(s) }, patience, tick)
	sent := b.Conn.Stats().OutMsgs
	for range 100 {
		require.NoError(t, s.PaceOver(t.Context(), registry, Pull, HTTP1))
	}
	require.Equal(t, sent, b.Conn.Stats().OutMsgs)
}

// TestRateGrowsWithinSeconds: with the evenly spaced pulls of a busy worker, the rate becomes
// unlimited in less than two seconds, because the first pulls are not reserved far ahead.
func TestRateGrowsWithinSeconds(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	s := opened(t, b, 0)
	exploring := line{registry, Pull, HTTP1}
	reservations, err := b.Conn.SubscribeSync(s.lane(exploring).subject)
	require.NoError(t, err)
	require.NoError(t, s.explore(t.Context(), exploring))
	s.Took(registry, latencyOfTests)
	var pulls sync.WaitGroup
	for range 64 {
		pulls.Go(func() {
			for s.found(exploring).Rate < unlimited {
				if err := s.PaceOver(t.Context(), registry, Pull, HTTP2); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	pulls.Wait()
	require.NoError(t, b.Conn.Flush())
	var took time.Duration
	for m, err := reservations.NextMsg(patience); err == nil; m, err = reservations.NextMsg(tick) {
		var r reservation
		require.NoError(t, json.Unmarshal(m.Data, &r))
		took += time.Duration(r.Count) * r.Every
	}
	require.Less(t, took, 2*time.Second)
	require.Greater(t, took, time.Second)
}

// TestFewPullsShowLittle: a run with few pulls raises the rate only a little, however long it
// takes. A refusal halves the rate that was reached.
func TestFewPullsShowLittle(t *testing.T) {
	t.Parallel()
	b, clock := brokertest.Embedded(t), &movable{}
	s := openedAt(t, b, clock.now)
	require.NoError(t, s.Explore(t.Context(), registry, Pull))
	for range 4 {
		require.NoError(t, s.PaceOver(t.Context(), registry, Pull, HTTP1))
		clock.move(time.Minute)
	}
	limit, origin := s.Limit(registry, "")
	require.Equal(t, Found, origin)
	require.EqualValues(t, firstRate, limit.Requests)
	require.NoError(t, s.Refused(t.Context(), call(s), time.Second, "429"))
	require.InDelta(t, firstRate/2, s.found(line{registry, Pull, HTTP1}).Rate, 0.01)
}

func TestNoLimitCostsNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	s := opened(t, b, 0)
	_, err := s.Take(t.Context(), "", registry, "")
	require.NoError(t, err)
	require.NoError(t, s.unrefused(t.Context(), line{registry, Pull, HTTP1}))
	require.NoError(t, s.unrefused(t.Context(), line{registry, All, HTTP1}))
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
	require.WithinDuration(t, s.Now().Add(time.Hour+maxSlack), rows[2].NextSlot, time.Minute)
	require.False(t, rows[2].Closed)
}

// TestRefusedTogether: if requests that were under way together are refused, one shortly after the
// other, the rate is halved once.
func TestRefusedTogether(t *testing.T) {
	b := brokertest.Embedded(t)
	s := opened(t, b, 0)
	require.NoError(t, s.Explore(t.Context(), "registry.example.com", Pull))
	for range 13 {
		require.NoError(t, s.Refused(t.Context(), Call{Registry: "registry.example.com", Kind: Pull, Started: time.Now()}, time.Minute, "429"))
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	require.InDelta(t, firstRate/2, s.view.found[line{"registry.example.com", Pull, HTTP1}.foundKey()].Rate, 0.01)
}

// TestRefusalOfOneKind: a refusal slows down requests of its kind, and others only briefly.
func TestRefusalOfOneKind(t *testing.T) {
	t.Parallel()
	clock := &movable{}
	s := openedAt(t, brokertest.Embedded(t), clock.now)
	all := line{registry, All, HTTP1}
	refuse := func(kind Kind) {
		t.Helper()
		c := call(s)
		c.Kind = kind
		require.NoError(t, s.Refused(t.Context(), c, time.Second, "429"))
		clock.move(2 * time.Second)
	}
	require.NoError(t, s.Explore(t.Context(), registry, Tags))
	require.Zero(t, s.found(line{registry, Pull, HTTP1}))
	require.True(t, s.found(all).explores(s.Now()))

	refuse(Tags)
	require.InDelta(t, firstRate/2, s.found(line{registry, Tags, HTTP1}).Rate, 0.01)
	require.True(t, s.found(all).explores(s.Now()))
	require.NoError(t, s.unrefused(t.Context(), all))
	refuse(Tags)
	require.InDelta(t, firstRate/2, s.found(line{registry, Tags, HTTP1}).Rate, 0.01, "refused without any success in between")
	require.False(t, s.found(all).Refused)
	_, origin := s.Limit(registry, "")
	require.Equal(t, None, origin, "of pulls")

	refuse(Manifest)
	require.True(t, s.found(line{registry, Manifest, HTTP1}).explores(s.Now()), "nothing is known of its rate")
	require.InDelta(t, unlimited/2, s.found(all).Rate, 0.01, "it refuses several kinds")
	require.True(t, s.found(all).Refused)
	limit, origin := s.Limit(registry, "")
	require.Equal(t, Found, origin)
	require.EqualValues(t, unlimited/2, limit.Requests)

	require.NoError(t, s.Explore(t.Context(), "docker.io", Manifest))
	require.Zero(t, s.found(line{"docker.io", All, HTTP1}), "it counts pulls only")
	require.NoError(t, s.Explore(t.Context(), quay, Pull))
	require.Zero(t, s.found(line{quay, All, HTTP1}))
}
