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
	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// maxWait is the longest time that Pace and Take wait while no request of this process may
	// be sent. Their caller holds a chunk.
	maxWait = 3 * time.Second
	// maxQueue is the longest time that Pace and Take wait while other requests of this process
	// are sent.
	maxQueue = 5 * maxWait
	// slotLife is how late a slot may be used. Used later, it would be too close to others.
	slotLife = 100 * time.Millisecond
	// electionPause is how long a reservation waits before it asks a broker again that elects a leader.
	electionPause = 250 * time.Millisecond
	// keepPace is how long reservations are kept: longer than the longest pause between
	// two requests, that of the slowest rate.
	keepPace = time.Hour
	// paceHistory is how many reservations are kept until they have been read back.
	paceHistory = 64
)

// Pace waits until a request of this kind may be sent over HTTP/1.1, for some seconds at
// most. It returns a *SpentError if that is too late, or if the registry is closed. Any other
// error comes from the broker. If no rate is known, it sends no request.
func (s *Store) Pace(ctx context.Context, registry string, kind Kind) error {
	return s.PaceOver(ctx, registry, kind, HTTP1)
}

// PaceOver waits as Pace does, for a request over a protocol. If the registry counts the
// connections of this process, it sends no request to the broker. A pull needs no token of
// Take if its registry does not count pulls; see Counts.
func (s *Store) PaceOver(ctx context.Context, registry string, kind Kind, protocol Protocol) error {
	if err := s.permit(registry); err != nil {
		return err
	}
	for _, kind := range s.paced(registry, kind) {
		line, rate, limited := s.rate(registry, kind, protocol)
		if !limited {
			continue
		}
		if err := s.wait(ctx, line, rate); err != nil {
			return err
		}
		// Others may have been refused in the meantime.
		if err := s.permit(registry); err != nil {
			return err
		}
	}
	return nil
}

// paced returns the kinds as which a request is paced.
func (s *Store) paced(registry string, kind Kind) []Kind {
	if len(s.zones(registry)) > 0 {
		return []Kind{kind}
	}
	return []Kind{kind, All}
}

func (s *Store) wait(ctx context.Context, line line, rate Rate) error {
	if line.protocol == HTTP2 {
		return s.connection(line).wait(ctx, s, rate)
	}
	return s.lane(line).wait(ctx, s, rate)
}

func (s *Store) openPace(ctx context.Context) (jetstream.Stream, error) {
	return s.b.OpenStream(ctx, jetstream.StreamConfig{
		Name:              streamPace,
		Description:       "skopeo-worker: when the next requests may be sent",
		Subjects:          []string{subjectPace + ".*.*"},
		Storage:           jetstream.FileStorage,
		MaxAge:            keepPace,
		MaxMsgsPerSubject: paceHistory,
		AllowDirect:       true,
	})
}

// lane is the sequence of the requests of a line.
type lane struct {
	line
	subject string

	waiting  atomic.Int64
	turn     *semaphore.Weighted // of one reservation at a time
	slots    []time.Time         // reserved and not used, evenly spaced, by the local clock
	every    time.Duration       // between two of them
	given    time.Time           // when the last one of the same reservation is used
	reserved time.Time           // when this process has reserved last, by the local clock
	used     int                 // slots of that reservation that were given to requests
	unused   int                 // its slots that no request came for in time
	last     uint64              // sequence of the last reservation; 0: none
	newest   reservation         // the last one; zero if it cannot be read
	next     time.Time           // its end, by the broker's clock
	stored   time.Time           // when the broker has stored it
	known    bool                // whether last, newest, next and stored are known
}

func (s *Store) lane(line line) *lane {
	subject := subjectPace + "." + line.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[subject]
	if l == nil {
		l = &lane{line: line, subject: subject, turn: semaphore.NewWeighted(1)}
		s.lanes[subject] = l
	}
	return l
}

// wait waits for the next slot of the lane, less the time that the rate's burst allows. A
// process that was suspended may wake up after its slot, and then takes another one.
func (l *lane) wait(ctx context.Context, s *Store, rate Rate) error {
	came := s.clock.local()
	for {
		slot, err := l.slot(ctx, s, rate, came)
		if err != nil {
			return err
		}
		if err := sleep(ctx, slot.Add(-rate.lead()).Sub(s.clock.local())); err != nil {
			return err
		}
		if !s.clock.local().After(slot.Add(slotLife)) {
			return nil
		}
	}
}

// sleep waits for a time, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// slot returns a slot by the local clock. If there is none, it reserves some for all that
// wait in this process.
func (l *lane) slot(ctx context.Context, s *Store, rate Rate, came time.Time) (time.Time, error) {
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	if l.turn.Acquire(ctx, 1) != nil {
		return time.Time{}, context.Cause(ctx)
	}
	defer l.turn.Release(1)
	for len(l.slots) > 0 && l.slots[0].Add(slotLife).Before(l.earliest(s)) {
		l.slots = l.slots[1:]
		l.unused++
	}
	if len(l.slots) == 0 {
		if limited, err := l.reserve(ctx, s, rate, came); err != nil || !limited {
			return s.clock.local(), err
		}
	}
	l.given = latest(l.slots[0], l.earliest(s))
	l.slots = l.slots[1:]
	l.used++
	return l.given, nil
}

// earliest returns when the next slot may be used at the earliest: those that are used late are as
// far apart as they would be otherwise.
func (l *lane) earliest(s *Store) time.Time {
	return latest(s.clock.local(), l.given.Add(l.every))
}

// expected returns how many requests of this process will come within a time: as many as came
// since its last reservation, and at most twice as many as that was for.
func (l *lane) expected(s *Store, within time.Duration) int64 {
	passed := max(s.clock.local().Sub(l.reserved), within/2)
	return int64(l.used) * int64(within) / int64(passed)
}

// patience returns until when, by the local clock, a request that came at a time waits for a
// reservation. As long as others of this process get slots, or the rate grows, it waits for
// longer.
func (l *lane) patience(came time.Time, rate Rate) time.Time {
	until := came.Add(maxWait)
	if rate.explores() {
		return came.Add(maxQueue)
	}
	if served := l.reserved.Add(maxWait); served.After(until) {
		until = served
	}
	if most := came.Add(maxQueue); until.After(most) {
		return most
	}
	return until
}

// current returns the rate at which the next slots are reserved, and false if there is no
// limit any more. A rate that grows may have changed since the request came.
func (l *lane) current(ctx context.Context, s *Store, rate Rate) (Rate, bool, error) {
	if rate.grows == (growing{}) {
		return rate, true, nil
	}
	_, rate, limited := s.rate(l.registry, l.counted, l.protocol)
	if rate.grows == (growing{}) {
		return rate, limited, nil
	}
	rate.Rate = rate.grows.rate(float64(l.sent(rate.grows)), s.latency(l.registry))
	if rate.Rate < unlimited {
		return rate, true, nil
	}
	err := s.unrefused(ctx, l.line)
	_, rate, limited = s.rate(l.registry, l.counted, l.protocol)
	return rate, limited, unread(err)
}

// sent returns how many requests have raised the rate.
func (l *lane) sent(grows growing) int {
	if !l.stored.After(grows.since) {
		return 0
	}
	return max(l.newest.Sent-l.unused, 0)
}

// reach returns how far ahead of its place among evenly spaced ones a slot is reserved at
// most. That is maxWait ahead of the slot, and never more than twice that.
func (r Rate) reach() time.Duration {
	if r.horizon > 0 {
		return r.horizon
	}
	return min(maxWait+r.lead(), 2*maxWait)
}

// explores reports whether the rate grows fast.
func (r Rate) explores() bool { return r.horizon == exploreHorizon }

// reserve fills slots. It returns false if the registry turns out to have no limit. If the broker
// has no leader for the reservations, it waits as long as an election takes: the request may be for
// a part of an image that was pulled already.
func (l *lane) reserve(ctx context.Context, s *Store, rate Rate, came time.Time) (limited bool, err error) {
	for {
		limited, err := l.reserveOnce(ctx, s, rate, came)
		switch {
		case errors.Is(err, broker.ErrConflict): // another process was faster: its reservation is followed
		case errors.Is(err, errUnread) && s.clock.local().Before(came.Add(maxQueue)):
			// If it is stored, it is followed.
			if err := sleep(ctx, electionPause); err != nil {
				return false, err
			}
		default:
			return limited, err
		}
	}
}

func (l *lane) reserveOnce(ctx context.Context, s *Store, rate Rate, came time.Time) (limited bool, err error) {
	for {
		if err := l.read(ctx, s); err != nil {
			return false, err
		}
		if rate, limited, err = l.current(ctx, s, rate); err != nil || !limited {
			return false, err
		}
		every, horizon := rate.interval(), rate.reach()
		now := s.Now()
		ahead, wanted := max(l.next.Sub(now), 0), l.waiting.Load()
		most := horizon
		if rate.explores() {
			// However high the rate is, there are few reservations a second.
			most, wanted = horizon/2, max(wanted, l.expected(s, horizon))
		}
		if ahead > most {
			slot := l.next.Add(-rate.lead())
			if s.clock.local().Add(ahead - most).After(l.patience(came, rate)) {
				return false, &SpentError{Registry: l.registry, Slot: slot, Reason: fmt.Sprintf("more than %s are waiting", asLimit(rate.Rate))}
			}
			// Those that wait reserve together, as long as the first one comes in time.
			together := min(time.Duration(wanted-1)*every, (horizon-rate.lead())/2)
			if err := sleep(ctx, max(ahead-horizon+together, ahead-most)); err != nil {
				return false, err
			}
			continue
		}
		r := reservation{After: l.next, Every: every}
		r.Count = int(min(wanted, 1+int64((horizon-ahead)/every)))
		if grows := s.found(l.line).growing(now); grows != (growing{}) { // also while it is probed
			r.Sent = l.sent(grows) + r.Count
		}
		return true, l.publish(ctx, s, r)
	}
}

// errUnread is returned if the broker did not answer a read, or if a reservation may be stored but its
// place is not known: the broker has restarted, or elects a new leader.
var errUnread = errors.New("the broker has not confirmed it")

// unread returns an error as errUnread if it is one. A replica that is behind does not have the
// reservation yet.
func unread(err error) error {
	if broker.NoAnswer(err) || errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	return err
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
		return fmt.Errorf("reserving requests to %s: %w", l.registry, unread(broker.Conflict(s.b.Unstored(ctx, streamPace, err))))
	}
	// The broker has stored it by now. The message holds the time.
	received := s.clock.local()
	m, err := s.pace.GetMsg(ctx, ack.Sequence)
	if err != nil {
		return fmt.Errorf("reading the reservation for %s: %w", l.registry, unread(err))
	}
	l.slots, l.every, l.given, l.used, l.unused = nil, r.Every, time.Time{}, 0, 0
	first := received.Add(r.start(m.Time).Sub(m.Time))
	for i := range r.Count {
		l.slots = append(l.slots, first.Add(time.Duration(i)*r.Every))
	}
	l.reserved = received
	l.follows(ack.Sequence, m.Time, r)
	return nil
}

// follows notes the last reservation.
func (l *lane) follows(sequence uint64, stored time.Time, r reservation) {
	l.last, l.newest, l.next, l.stored, l.known = sequence, r, r.end(stored), stored, true
}

// read reads the last reservation if it is not known.
func (l *lane) read(ctx context.Context, s *Store) error {
	if l.known {
		return nil
	}
	m, err := s.b.Last(ctx, streamPace, l.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		l.last, l.newest, l.next, l.stored, l.known = 0, reservation{}, time.Time{}, time.Time{}, true
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the last reservation for %s: %w", l.registry, unread(err))
	}
	if r, ok := readReservation(m); ok {
		l.follows(m.Sequence, m.Time, r)
		return nil
	}
	// If the last message is not a reservation, those before it still count.
	var next time.Time
	for from := uint64(1); ; {
		earlier, err := s.b.Next(ctx, streamPace, l.subject, from)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the last reservation for %s: %w", l.registry, unread(err))
		}
		if r, ok := readReservation(earlier); ok {
			next = latest(next, r.end(earlier.Time))
		}
		m, from = earlier, earlier.Sequence+1
	}
	l.last, l.newest, l.next, l.stored, l.known = m.Sequence, reservation{}, next, time.Time{}, true
	return nil
}
