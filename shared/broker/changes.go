package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// changesBatch and changesBytes bound what one request of Changes brings.
	changesBatch = 1000
	changesBytes = 4 << 20
	// headerPending tells with each message of an answer how many follow.
	headerPending = "Nats-Num-Pending"
)

// Changes calls see with each message below the subject that the stream has stored
// since the sequence after, in their order, and returns the last sequence seen: what
// to go on from the next time. It costs one request for every thousand messages.
// A replica may answer that is behind its leader: what it has not told comes the next
// time.
func (b *Broker) Changes(ctx context.Context, stream, subject string, after uint64, see func(*jetstream.RawStreamMsg) error) (last uint64, err error) {
	for pending := true; pending; {
		if after, pending, err = b.changes(ctx, stream, subject, after, see); err != nil {
			return after, fmt.Errorf("reading what is new below %s: %w", subject, err)
		}
	}
	return after, nil
}

func (b *Broker) changes(ctx context.Context, stream, subject string, after uint64, see func(*jetstream.RawStreamMsg) error) (last uint64, more bool, err error) {
	msgs, err := jetstreamext.GetBatch(ctx, b.JS, stream, changesBatch, jetstreamext.GetBatchSubject(subject),
		jetstreamext.GetBatchSeq(after+1), jetstreamext.GetBatchMaxBytes(changesBytes))
	if err != nil {
		return after, false, err
	}
	// The iterator ends without an error where the broker does not answer in time, or
	// stops in between.
	pending := -1
	for m, err := range msgs {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return after, false, nil
		}
		if err == nil {
			err = see(m)
		}
		if err != nil {
			return after, false, err
		}
		after = m.Sequence
		if pending, err = strconv.Atoi(m.Header.Get(headerPending)); err != nil {
			return after, false, err
		}
	}
	if pending < 0 || ctx.Err() != nil {
		return after, false, fmt.Errorf("%w: its answer is not complete", ErrUnreachable)
	}
	return after, pending > 0, nil
}

// Count returns how many subjects below the given one have messages, by the word of
// the stream's leader. The answer is small, however many there are.
func (b *Broker) Count(ctx context.Context, subject string) (int, error) {
	// nats.go reads all pages, of 100,000 subjects each. A page beyond the last one
	// has no subjects, and tells how many there are.
	request, err := json.Marshal(map[string]any{"subjects_filter": subject, "offset": math.MaxInt32})
	if err != nil {
		return 0, err
	}
	answer, err := b.Conn.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.INFO."+StreamName, request)
	var info struct {
		Error *jetstream.APIError `json:"error"`
		Total int                 `json:"total"`
	}
	if err == nil {
		err = json.Unmarshal(answer.Data, &info)
	}
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if err != nil {
		return 0, fmt.Errorf("counting what is below %s: %w", subject, err)
	}
	return info.Total, nil
}
