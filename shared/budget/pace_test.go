package budget

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// bucket is a registry that limits requests by a token bucket.
type bucket struct {
	mu         sync.Mutex
	rate, size float64
	tokens     float64
	last       time.Time
	refused    int
	answered   int
}

func (b *bucket) request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens = min(b.size, b.tokens+now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.tokens < 1 {
		b.refused++
		return
	}
	b.tokens--
	b.answered++
}

// paced sends n requests. If one must wait, its worker sends it at the time in the error.
func paced(t *testing.T, stores []*Store, n int, kind Kind, r *bucket) {
	var workers sync.WaitGroup
	for i := range n {
		s := stores[i%len(stores)]
		workers.Go(func() {
			for {
				err := s.Pace(t.Context(), quay, kind)
				var spent *SpentError
				if errors.As(err, &spent) {
					until(t.Context(), s, spent.Slot)
					continue
				}
				if err != nil {
					t.Error(err)
				}
				r.request()
				return
			}
		})
	}
	workers.Wait()
}

func TestRequestsArePacedFleetWide(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	stores := fleet(t, b, 8)
	for kind, z := range documented[quay] {
		if z.counted != kind {
			continue // it shares a lane
		}
		if kind == Login {
			continue // the burst lasts 25 ms, and a busy machine may need that long to wake up
		}
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			r := &bucket{rate: z.address.Rate, size: float64(z.address.Burst + 1)}
			paced(t, stores, z.address.Burst+int(3*z.address.Rate), kind, r)
			require.Zero(t, r.refused)
			require.Equal(t, z.address.Burst+int(3*z.address.Rate), r.answered)
		})
	}
}

// TestConnectionIsPacedLocally: requests over HTTP/2 keep the rate of one connection without the
// broker, independently of other connections.
func TestConnectionIsPacedLocally(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	s := opened(t, b, 0)
	require.NoError(t, s.PaceOver(t.Context(), quay, Login, HTTP2), "counted by login, and so by the fleet")
	sent := b.Conn.Stats().OutMsgs
	require.NotZero(t, s.lane(line{quay, Login, HTTP1}).last)
	for _, kind := range []Kind{API, Tags, Pull, Manifest, Blob, Other} {
		z := documented[quay][kind]
		r := &bucket{rate: z.connection.Rate, size: float64(z.connection.Burst + 1)}
		var requests sync.WaitGroup
		for range z.connection.Burst + int(z.connection.Rate)/4 {
			requests.Go(func() {
				if err := s.PaceOver(t.Context(), quay, kind, HTTP2); err != nil {
					t.Error(err)
				}
				r.request()
			})
		}
		requests.Wait()
		require.Zero(t, r.refused, kind)
	}
	require.Equal(t, sent, b.Conn.Stats().OutMsgs)
}

// TestCopyCountsItsBlobs: a skopeo process also takes the slots of its blobs, if the registry
// counts them.
func TestCopyCountsItsBlobs(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	_, err := s.TakeForCopy(t.Context(), "", quay, "", 1)
	require.NoError(t, err)
	l := s.lane(line{quay, Manifest, HTTP1})
	require.EqualValues(t, 1+blobsOfCopy, l.last, "one reservation each, because no other copy waits")
	_, err = s.TakeForCopy(t.Context(), "", registry, "", 1)
	require.NoError(t, err)
	require.Zero(t, s.lane(line{registry, Blob, HTTP1}).last)
}

// TestRefusedConnection: a refusal over HTTP/2 halves the rate of connections, but not the shared
// rate of HTTP/1.1.
func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	b, clock := brokertest.Embedded(t), &movable{}
	one, two := openedAt(t, b, clock.now), openedAt(t, b, clock.now)
	_, before, _ := one.rate(quay, Manifest, HTTP2)
	_, shared, _ := one.rate(quay, Manifest, HTTP1)
	c := Call{Registry: quay, Kind: Blob, Protocol: HTTP2, Started: one.clock.local()}
	require.NoError(t, one.Refused(t.Context(), c, time.Second, "429"))
	require.ErrorAs(t, one.PaceOver(t.Context(), quay, API, HTTP2), new(*SpentError))
	require.NoError(t, two.CatchUp(t.Context()))
	clock.move(time.Second)
	for _, s := range []*Store{one, two} {
		line, rate, _ := s.rate(quay, Pull, HTTP2)
		require.Equal(t, HTTP1, line.protocol, "probed together")
		require.Equal(t, Rate{Rate: probeRate, horizon: foundHorizon}, rate)
	}
	c.Started = one.clock.local()
	one.Succeeded(c)
	require.Eventually(t, func() bool { return !two.probing(quay, Pull) }, patience, tick)
	for _, s := range []*Store{one, two} {
		_, rate, _ := s.rate(quay, Pull, HTTP2)
		require.InDelta(t, before.Rate/2, rate.Rate, 5)
		_, rate, _ = s.rate(quay, Pull, HTTP1)
		require.Equal(t, shared, rate)
	}
}

// TestPaceKeepsNobodyForLong: a request waits for other requests of its process. It does not wait for
// those of other processes.
func TestPaceKeepsNobodyForLong(t *testing.T) {
	t.Parallel()
	stores := fleet(t, brokertest.Embedded(t), 2)
	tags := line{quay, Tags, HTTP1}
	reserve := func(ahead time.Duration) {
		l := stores[0].lane(tags)
		require.NoError(t, l.read(t.Context(), stores[0]))
		require.NoError(t, l.publish(t.Context(), stores[0], reservation{After: l.next, Count: 1, Every: ahead}))
	}
	reserve(time.Hour / 2)
	var spent *SpentError
	require.ErrorAs(t, stores[1].Pace(t.Context(), quay, Tags), &spent)
	require.Equal(t, quay, spent.Registry)
	require.Greater(t, spent.Slot, stores[1].Now().Add(maxWait))
	require.NoError(t, stores[1].Pace(t.Context(), quay, API), "kinds are paced apart")
}

// TestLaneReachesItsRate: the requests of one process use the whole lane, however many wait at
// once, and none of them has to come back later.
func TestLaneReachesItsRate(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	_, rate, _ := s.line(quay, Tags, HTTP1)
	const requests = 32 // more than in maxWait
	require.Greater(t, requests*rate.interval(), 2*maxWait)
	var workers sync.WaitGroup
	for range requests {
		workers.Go(func() {
			if err := s.Pace(t.Context(), quay, Tags); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
	// The reservations leave no gap.
	var end time.Time
	next, err := s.b.Next(t.Context(), streamPace, s.lane(line{quay, Tags, HTTP1}).subject, 1)
	for total := 0; total < requests; next, err = s.b.Next(t.Context(), streamPace, next.Subject, next.Sequence+1) {
		require.NoError(t, err)
		var r reservation
		require.NoError(t, json.Unmarshal(next.Data, &r))
		if !end.IsZero() {
			require.True(t, end.Equal(r.start(next.Time)), "%s was free from %s to %s", quay, end, r.start(next.Time))
		}
		total, end = total+r.Count, r.end(next.Time)
	}
}

func TestReservationsFollowEachOther(t *testing.T) {
	stored := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := reservation{After: stored.Add(time.Second), Count: 3, Every: time.Second}
	require.Equal(t, stored.Add(time.Second), r.start(stored))
	require.Equal(t, stored.Add(4*time.Second), r.end(stored))
	require.Equal(t, stored.Add(time.Minute), r.start(stored.Add(time.Minute)), "no request for a while")
	back := stored.Add(-time.Hour)
	require.Equal(t, back, r.start(back), "the broker's clock was set back")
}

// TestReservationWithoutAnAnswer: if the broker stores a reservation and its answer is lost, the request
// reserves once more, after the first reservation.
func TestReservationWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	way := server.NewWay(t)
	s := opened(t, brokertest.Open(t, way.Config()), 0)
	b := brokertest.Open(t, server.Config())
	subject := s.lane(line{quay, Tags, HTTP1}).subject
	last := func() (sequence uint64, at time.Time) {
		m, err := b.Last(t.Context(), streamPace, subject)
		require.NoError(t, err)
		r, ok := readReservation(m)
		require.True(t, ok)
		return m.Sequence, r.end(m.Time)
	}
	require.NoError(t, s.Pace(t.Context(), quay, Tags))
	first, _ := last()
	way.Muted.Store(true)
	paced := make(chan error, 1)
	go func() { paced <- s.Pace(t.Context(), quay, Tags) }()
	require.Eventually(t, func() bool { sequence, _ := last(); return sequence > first }, patience, tick)
	lost, end := last()
	way.Muted.Store(false)
	require.NoError(t, <-paced)
	sequence, next := last()
	require.Equal(t, lost+1, sequence)
	require.True(t, next.After(end))
}
