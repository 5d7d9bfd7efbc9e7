package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/osism/skopeo-worker/shared/subject"
)

// Headers of nats-server for scheduled messages (ADR-51). nats.go has no names for them, or
// options that lose precision.
const (
	headerSchedule       = "Nats-Schedule"
	headerScheduleTarget = "Nats-Schedule-Target"
	headerScheduler      = "Nats-Scheduler"
	headerScheduleNext   = "Nats-Schedule-Next"
	scheduleNextPurge    = "purge"
	scheduleAt           = "@at "
)

// maxBatch is the most messages nats-server takes in one atomic batch (ADR-50).
const maxBatch = 1000

// Scheduled returns the message that becomes a due chunk at the given time. It
// stands under root, subject.Plan or subject.Later, until then.
func Scheduled(root string, a subject.Address, due time.Time, data []byte) *nats.Msg {
	m := nats.NewMsg(a.Under(root))
	// nats.go's WithScheduleAt truncates to seconds.
	m.Header.Set(headerSchedule, scheduleAt+due.UTC().Format(time.RFC3339Nano))
	m.Header.Set(headerScheduleTarget, a.Under(subject.Chunk))
	m.Data = data
	return m
}

// Due returns the time and the target of a scheduled message.
func Due(h nats.Header) (due time.Time, target string, ok bool) {
	at, found := strings.CutPrefix(h.Get(headerSchedule), scheduleAt)
	due, err := time.Parse(time.RFC3339Nano, at)
	return due, h.Get(headerScheduleTarget), found && err == nil
}

// Target returns the subject to which a scheduled message is published, or "" if it is not
// a schedule.
func Target(h nats.Header) string {
	if h.Get(headerSchedule) == "" {
		return ""
	}
	return h.Get(headerScheduleTarget)
}

// Fire does what the server does when a schedule is due: with one message, it publishes the
// chunk to the target and purges the schedule. If the schedule with this sequence is gone, it
// returns ErrConflict.
func (b *Broker) Fire(ctx context.Context, schedule *jetstream.RawStreamMsg) error {
	_, target, ok := Due(schedule.Header)
	if !ok {
		return fmt.Errorf("%w: message %d on %s is not a schedule", ErrForeignStream, schedule.Sequence, schedule.Subject)
	}
	m := nats.NewMsg(target)
	for k, v := range schedule.Header {
		if !strings.HasPrefix(k, "Nats-") {
			m.Header[k] = v
		}
	}
	m.Header.Set(headerScheduler, schedule.Subject)
	m.Header.Set(headerScheduleNext, scheduleNextPurge)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(schedule.Sequence))
	m.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, schedule.Subject)
	m.Data = schedule.Data
	// It does not wait until a server takes the message: a new leader may fire the schedule at that moment.
	if _, err := b.js.PublishMsg(undated{ctx}, m); err != nil {
		return fmt.Errorf("firing %s: %w", schedule.Subject, b.unstored(ctx, err))
	}
	return nil
}

// Handover is how much later than at once the schedules that FireDue fires are due, and fireFor is how
// long FireDue fires them. nats-server publishes what is due about 250 ms later (scheduler.go,
// resetTimer), and does so even if another client fires it meanwhile. So a chunk would be published twice
// if the server and FireDue fired it at the same moment.
const (
	Handover = 2 * time.Second
	fireFor  = Handover / 2
)

// FireDue fires the schedules that are due at the given time, in their order. That time is Handover after
// they began to be published, which was at began by the local clock. msgs and first are those of
// PublishAll. FireDue stops long before the server fires the rest itself, and at the first error.
func (b *Broker) FireDue(ctx context.Context, msgs []*nats.Msg, first uint64, at, began time.Time) {
	for i, m := range msgs[:min(len(msgs), maxBatch)] { // the sequences of a batch follow each other
		if due, _, ok := Due(m.Header); !ok || !due.Equal(at) {
			continue
		}
		if time.Since(began) > fireFor {
			return
		}
		if b.Fire(ctx, &jetstream.RawStreamMsg{Subject: m.Subject, Sequence: first + uint64(i), Header: m.Header, Data: m.Data}) != nil {
			return
		}
	}
}

// unstored returns an error as ErrFull or ErrConflict, if it is one.
func (b *Broker) unstored(ctx context.Context, err error) error {
	return Conflict(b.Unstored(ctx, StreamName, err))
}

// Publish stores one message and waits until the broker has it.
func (b *Broker) Publish(ctx context.Context, m *nats.Msg) (uint64, error) {
	ack, err := b.JS.PublishMsg(ctx, m)
	if err != nil {
		return 0, fmt.Errorf("publishing %s: %w", m.Subject, b.unstored(ctx, err))
	}
	return ack.Sequence, nil
}

const (
	// codeIncomplete is nats-server's JSAtomicPublishIncompleteBatchErr: it has stored
	// nothing of the batch. A new leader does not know a batch that was begun before, and a
	// server without space for a batch gives the same answer.
	codeIncomplete = 10176
	// batchTries outlast two changes of the leader.
	batchTries = 3
)

// PublishBatch stores at most 1,000 messages, all or none.
func (b *Broker) PublishBatch(ctx context.Context, msgs []*nats.Msg) (*jetstreamext.BatchAck, error) {
	return responded(ctx, func() (*jetstreamext.BatchAck, error) { return jetstreamext.PublishMsgBatch(undated{ctx}, b.JS, msgs) })
}

// PublishAll stores the messages in atomic batches, each all or nothing, and returns the
// sequence of the first. If a batch fails, the ones before it are stored: the caller undoes
// or supersedes them.
func (b *Broker) PublishAll(ctx context.Context, msgs []*nats.Msg) (first uint64, err error) {
	for start := 0; start < len(msgs); start += maxBatch {
		batch := msgs[start:min(start+maxBatch, len(msgs))]
		ack, err := b.PublishBatch(ctx, batch)
		for n := 1; code(err) == codeIncomplete && n < batchTries && ctx.Err() == nil; n++ {
			ack, err = b.PublishBatch(ctx, batch)
		}
		if code(err) == codeIncomplete {
			err = fmt.Errorf("%w: %w", errNoRoom, err)
		}
		if err != nil {
			return first, fmt.Errorf("publishing messages %d to %d of %d: %w", start+1, start+len(batch), len(msgs), b.unstored(ctx, err))
		}
		if first == 0 {
			first = ack.Sequence - uint64(len(batch)) + 1
		}
	}
	return first, nil
}

// ErrConflict is returned if the last message of a subject is not the expected one, because
// another process was faster.
var ErrConflict = errors.New("changed by another process in the meantime")

// The two codes of a wrong last sequence: of a single server, and of a cluster with another
// write of the subject under way.
const (
	codeWrongSequence         = 10071
	codeWrongSequenceInFlight = 10164
)

// Conflict turns the broker's errors for a wrong expected sequence into
// ErrConflict, and leaves others as they are.
func Conflict(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeWrongSequence || api.ErrorCode == codeWrongSequenceInFlight) {
		return fmt.Errorf("%w (%w)", ErrConflict, err)
	}
	return err
}

// ExpectLast makes a message that is stored only if sequence is that of the last message of its
// subject (0: there is none). It replaces all messages of the subject.
func ExpectLast(m *nats.Msg, sequence uint64) *nats.Msg {
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(sequence))
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	return m
}
