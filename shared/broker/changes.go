package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natsext"
)

const (
	// changesBatch and changesBytes bound what one request of Changes brings.
	changesBatch = 1000
	changesBytes = 4 << 20
	// headerPending tells with each message of an answer how many follow.
	headerPending = "Nats-Num-Pending"
	// headerStatus has the status of an answer that is no message, in which case there
	// is no jetstream.StreamHeader.
	headerStatus = "Status"
	statusEnd    = "204" // of the batch
	statusNone   = "404" // nothing matches
)

// errForged marks an answer that does not say which message it is, because a header of
// that message is in the way.
var errForged = errors.New("a message whose header hides what it is")

// Changes calls see with each message below the subject that the stream has stored
// since the sequence after, in their order, and returns the last sequence seen: what
// to go on from the next time. It costs one request for every thousand messages.
// A replica that is behind its leader may answer: what is missing comes the next time.
// A message with a foreign header does not keep the others from being read.
func (b *Broker) Changes(ctx context.Context, stream, subject string, after uint64, see func(*jetstream.RawStreamMsg) error) (last uint64, err error) {
	for more := true; more; {
		after, more, err = b.changes(ctx, stream, subject, after, see)
		if errors.Is(err, errForged) {
			after, more, err = b.change(ctx, stream, subject, after, see)
		}
		if err != nil {
			return after, fmt.Errorf("reading what is new below %s: %w", subject, err)
		}
	}
	return after, nil
}

// change goes on by one message.
func (b *Broker) change(ctx context.Context, stream, subject string, after uint64, see func(*jetstream.RawStreamMsg) error) (last uint64, more bool, err error) {
	m, err := b.Next(ctx, stream, subject, after+1)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return after, false, nil
	}
	if err == nil {
		err = see(m)
	}
	if err != nil {
		return after, false, err
	}
	return m.Sequence, true, nil
}

// changes goes on by a batch.
func (b *Broker) changes(ctx context.Context, stream, subject string, after uint64, see func(*jetstream.RawStreamMsg) error) (last uint64, more bool, err error) {
	request, err := json.Marshal(map[string]any{
		"seq": after + 1, "next_by_subj": subject, "batch": changesBatch, "max_bytes": changesBytes,
	})
	if err != nil {
		return after, false, err
	}
	status := ""
	answers, err := natsext.RequestMany(ctx, b.Conn, jetstream.DefaultAPIPrefix+"DIRECT.GET."+stream, request,
		natsext.RequestManySentinel(func(m *nats.Msg) bool {
			if m.Header.Get(jetstream.StreamHeader) == "" {
				status = m.Header.Get(headerStatus)
			}
			return status != ""
		}))
	if err != nil {
		return after, false, err
	}
	pending := 0
	for answer, err := range answers {
		var m *jetstream.RawStreamMsg
		if err == nil {
			m, pending, err = direct(answer)
		}
		if err == nil {
			err = see(m)
		}
		if err != nil {
			return after, false, err
		}
		after = m.Sequence
	}
	switch {
	case ctx.Err() != nil:
		return after, false, ctx.Err()
	case status == statusNone:
		return after, false, nil
	case status != statusEnd:
		// The answers also end without an error if the broker does not answer in time.
		return after, false, fmt.Errorf("%w: its answer is not complete (status %q)", ErrUnreachable, status)
	}
	return after, pending > 0, nil
}

// direct reads an answer of the stream's direct access, and how many follow. The server
// appends its headers to those of the message, so the last of a name is the server's.
func direct(answer *nats.Msg) (m *jetstream.RawStreamMsg, pending int, err error) {
	last := func(key string) string {
		if all := answer.Header.Values(key); len(all) > 0 {
			return all[len(all)-1]
		}
		return ""
	}
	m = &jetstream.RawStreamMsg{Subject: last(jetstream.SubjectHeader), Header: answer.Header, Data: answer.Data}
	var errs [3]error
	m.Sequence, errs[0] = strconv.ParseUint(last(jetstream.SequenceHeader), 10, 64)
	m.Time, errs[1] = time.Parse(time.RFC3339Nano, last(jetstream.TimeStampHeaer))
	pending, errs[2] = strconv.Atoi(last(headerPending))
	if err := errors.Join(errs[:]...); err != nil || m.Subject == "" {
		return nil, 0, errForged
	}
	return m, pending, nil
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
