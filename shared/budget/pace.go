package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// maxWait is the longest time that Pace and Take wait. Their caller holds a chunk.
	maxWait = 3 * time.Second
	// keepPace is how long reservations are kept: longer than the longest pause between
	// two requests, that of the slowest rate.
	keepPace = time.Hour
	// paceHistory is how many reservations are kept until they have been read back.
	paceHistory = 64
)

// Pace waits until a request of this kind may be sent, for some seconds at most. It
// returns a *SpentError if that is too late, or if the registry is closed. Any other error
// comes from the broker. If no rate is known, it sends no request.
func (s *Store) Pace(ctx context.Context, registry string, kind Kind) error {
	if err := s.permit(registry); err != nil {
		return err
	}
	rate, limited := s.rate(registry, kind)
	if !limited {
		return nil
	}
	return s.lane(registry, kind).wait(ctx, s, rate)
}

// pull paces the pulls from a registry without a stated limit.
func (s *Store) pull(ctx context.Context, registry string) error {
	if err := s.explore(ctx, registry); err != nil {
		return err
	}
	return s.Pace(ctx, registry, Pull)
}

func (s *Store) openPace(ctx context.Context) (stream jetstream.Stream, err error) {
	err = broker.Answered(ctx, func() error {
		stream, _, err = s.makePace(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", streamPace, err)
	}
	s.b.Own(streamPace, func(ctx context.Context) (bool, error) {
		_, made, err := s.makePace(ctx)
		return made, err
	})
	return stream, nil
}

func (s *Store) makePace(ctx context.Context) (stream jetstream.Stream, made bool, err error) {
	stream, err = s.b.JS.Stream(ctx, streamPace)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = s.b.JS.CreateStream(ctx, s.paceConfig())
		made = err == nil
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		stream, err = s.b.JS.Stream(ctx, streamPace)
	}
	return stream, made, err
}

func (s *Store) paceConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              streamPace,
		Description:       "skopeo-worker: when the next requests may be sent",
		Subjects:          []string{subjectPace + ".*.*"},
		Storage:           jetstream.FileStorage,
		Replicas:          s.b.Replicas,
		MaxAge:            keepPace,
		MaxMsgsPerSubject: paceHistory,
	}
}

// reservation is a message for Count requests, one every interval, the first no earlier
// than After and no earlier than the broker has stored it. Each one follows the last,
// under an expected sequence, so that those of all workers make one even sequence by the
// broker's clock.
type reservation struct {
	After time.Time     `json:"after"`
	Count int           `json:"count"`
	Every time.Duration `json:"every"`
}

// start returns when the first request may be sent. A reservation is never made further
// ahead than maxWait: if it seems so, the broker's clock was set back.
func (r reservation) start(stored time.Time) time.Time {
	if ahead := r.After.Sub(stored); ahead > 0 && ahead <= 2*maxWait {
		return r.After
	}
	return stored
}

// end returns when the next reservation may start.
func (r reservation) end(stored time.Time) time.Time {
	return r.start(stored).Add(time.Duration(r.Count) * r.Every)
}

// lane is the sequence of requests of one kind to one registry.
type lane struct {
	registry, subject string

	waiting atomic.Int64
	turn    chan struct{} // a mutex; waiting for it ends with a context
	slots   []time.Time   // reserved and not used, by the local clock
	last    uint64        // sequence of the last reservation; 0: none
	next    time.Time     // its end, by the broker's clock
	known   bool          // whether last and next are known
}

func (s *Store) lane(registry string, kind Kind) *lane {
	subject := subjectPace + "." + token(registry) + "." + string(countedAs(registry, kind))
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[subject]
	if l == nil {
		l = &lane{registry: registry, subject: subject, turn: make(chan struct{}, 1)}
		s.lanes[subject] = l
	}
	return l
}

// wait waits for the next slot of the lane.
func (l *lane) wait(ctx context.Context, s *Store, rate float64) error {
	slot, err := l.slot(ctx, s, rate)
	if err != nil {
		return err
	}
	timer := time.NewTimer(slot.Sub(s.clock.local()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
	}
	// Others may have been refused in the meantime.
	return s.permit(l.registry)
}

// slot returns a slot by the local clock. If there is none, it reserves some for all that
// wait in this process.
func (l *lane) slot(ctx context.Context, s *Store, rate float64) (time.Time, error) {
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
	// Unused slots are lost: used later, they would be too close to others.
	for len(l.slots) > 0 && l.slots[0].Before(s.clock.local()) {
		l.slots = l.slots[1:]
	}
	if len(l.slots) == 0 {
		if err := l.reserve(ctx, s, rate); err != nil {
			return time.Time{}, err
		}
	}
	slot := l.slots[0]
	l.slots = l.slots[1:]
	return slot, nil
}

// reserve fills slots.
func (l *lane) reserve(ctx context.Context, s *Store, rate float64) error {
	for {
		if err := l.read(ctx, s); err != nil {
			return err
		}
		wait := l.next.Sub(s.Now())
		if wait > maxWait {
			return &SpentError{Registry: l.registry, Slot: l.next, Reason: fmt.Sprintf("more than %s are waiting", asLimit(rate))}
		}
		r := reservation{After: l.next, Every: interval(rate)}
		r.Count = int(min(l.waiting.Load(), 1+int64((maxWait-max(wait, 0))/r.Every)))
		err := l.publish(ctx, s, r)
		if !errors.Is(err, broker.ErrConflict) {
			return err
		}
		// Another process was faster: its reservation is followed.
	}
}

func (l *lane) publish(ctx context.Context, s *Store, r reservation) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	last := l.last
	l.known = false // until the reservation is known to be stored
	ack, err := s.b.JS.PublishMsg(ctx, &nats.Msg{Subject: l.subject, Data: data},
		jetstream.WithExpectStream(streamPace), jetstream.WithExpectLastSequencePerSubject(last))
	if err != nil {
		return fmt.Errorf("reserving requests to %s: %w", l.registry, broker.Conflict(s.b.Unstored(ctx, streamPace, err)))
	}
	// The broker has stored it by now. The message holds the time.
	received := s.clock.local()
	m, err := s.pace.GetMsg(ctx, ack.Sequence)
	if err != nil {
		return fmt.Errorf("reading the reservation for %s: %w", l.registry, err)
	}
	first := received.Add(r.start(m.Time).Sub(m.Time))
	l.slots = nil
	for i := range r.Count {
		l.slots = append(l.slots, first.Add(time.Duration(i)*r.Every))
	}
	l.last, l.next, l.known = ack.Sequence, r.end(m.Time), true
	return nil
}

// read reads the last reservation if it is not known.
func (l *lane) read(ctx context.Context, s *Store) error {
	if l.known {
		return nil
	}
	m, err := s.b.Last(ctx, streamPace, l.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		l.last, l.next, l.known = 0, time.Time{}, true
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking when %s may be asked: %w", l.registry, err)
	}
	next, ok := readReservation(m)
	// If the last message is not a reservation, those before it still count.
	for from := uint64(1); !ok; {
		earlier, err := s.b.Next(ctx, streamPace, l.subject, from)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return fmt.Errorf("asking when %s may be asked: %w", l.registry, err)
		}
		if end, ok := readReservation(earlier); ok {
			next = latest(next, end)
		}
		m, from = earlier, earlier.Sequence+1
	}
	l.last, l.next, l.known = m.Sequence, next, true
	return nil
}

// readReservation returns when a reservation ends. It returns false if the message is not a
// reservation: a reservation is never for longer than it is kept.
func readReservation(m *jetstream.RawStreamMsg) (end time.Time, ok bool) {
	var r reservation
	if json.Unmarshal(m.Data, &r) != nil || r.Count < 1 || r.Every <= 0 || r.Every > keepPace/time.Duration(r.Count) {
		return time.Time{}, false
	}
	return r.end(m.Time), true
}

// free returns when, by the broker's clock, the next request may be reserved.
func (l *lane) free(ctx context.Context, s *Store) (time.Time, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
	l.known = false
	err := l.read(ctx, s)
	return l.next, err
}
