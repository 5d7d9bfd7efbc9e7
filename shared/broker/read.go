package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/subject"
)

// Last returns the last message of a subject as the stream's leader has it, or
// jetstream.ErrMsgNotFound. Stream.GetLastMsgForSubject is answered by any replica,
// and may be behind.
func (b *Broker) Last(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	return b.get(ctx, stream, subject, map[string]any{"last_by_subj": subject})
}

// Next returns the first message below a subject that has the sequence from, or a
// later one, as the stream's leader has it, or jetstream.ErrMsgNotFound.
func (b *Broker) Next(ctx context.Context, stream, subject string, from uint64) (*jetstream.RawStreamMsg, error) {
	return b.get(ctx, stream, subject, map[string]any{"seq": from, "next_by_subj": subject})
}

// get asks the leader for one message. nats.go fails if it cannot parse the header of a
// message, or if the header has a name that the server uses in its answers. Anyone can
// publish such a message. A header that cannot be parsed is left out here.
func (b *Broker) get(ctx context.Context, stream, subject string, which map[string]any) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := json.Marshal(which)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	got, err := b.Conn.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+stream, request)
	if err == nil {
		err = json.Unmarshal(got.Data, &answer)
	}
	if err == nil && answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, jetstream.ErrMsgNotFound
		}
		err = answer.Error
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", subject, err)
	}
	m := answer.Message
	header, err := nats.DecodeHeadersMsg(m.Header)
	if err != nil {
		header = nil
	}
	return &jetstream.RawStreamMsg{Subject: m.Subject, Sequence: m.Sequence, Header: header, Data: m.Data, Time: m.Time}, nil
}

// Delete deletes a message of the stream. It returns jetstream.ErrMsgNotFound if the
// message is not there any more: the server has the same error code for every reason.
func (b *Broker) Delete(ctx context.Context, sequence uint64) error {
	err := b.Stream.DeleteMsg(ctx, sequence)
	if err == nil {
		return nil
	}
	m, found := b.Next(ctx, StreamName, subject.All, sequence)
	if errors.Is(found, jetstream.ErrMsgNotFound) || found == nil && m.Sequence != sequence {
		return jetstream.ErrMsgNotFound
	}
	return fmt.Errorf("deleting message %d: %w", sequence, err)
}
