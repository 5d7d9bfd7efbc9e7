package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natsext"

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
	if b.Embedded() {
		m, err := b.getDirect(ctx, stream, request)
		if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
			return m, err
		}
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

// getDirect is get by the stream's direct access, which takes a third of the CPU time. The
// embedded broker has no replica that could be behind. It fails if it is not certain which
// message the answer is.
func (b *Broker) getDirect(ctx context.Context, stream string, request []byte) (*jetstream.RawStreamMsg, error) {
	answer, err := b.Conn.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"DIRECT.GET."+stream, request)
	switch {
	case err != nil:
		return nil, err
	case answer.Header.Get(jetstream.StreamHeader) == "" && answer.Header.Get(headerStatus) == statusNone:
		return nil, jetstream.ErrMsgNotFound
	}
	m, err := direct(answer)
	if err == nil {
		m.Header = stored(answer.Header)
	}
	return m, err
}

// stored returns the header that a message has in its stream, without the lines that the server has
// appended.
func stored(answer nats.Header) nats.Header {
	for _, name := range []string{jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer} {
		if own := answer[name]; len(own) > 1 {
			answer[name] = own[:len(own)-1]
		} else {
			delete(answer, name)
		}
	}
	return answer
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

const (
	// batchMessages and batchBytes bound the answer to one request for a batch.
	batchMessages = 1000
	batchBytes    = 4 << 20
	// headerStatus is in an answer that is not a message and so has no
	// jetstream.StreamHeader.
	headerStatus    = "Status"
	statusEnd       = "204" // of the batch
	statusNone      = "404" // nothing matches
	statusNoReplica = "503" // no replica of the stream answers yet
)

// errForged is returned for an answer that does not say which message it is, because a
// header of the message is in the way.
var errForged = errors.New("a message with a header that hides its sequence")

// Changes calls see with each message below the subject that the stream has stored after the given
// sequence, in order, up to the leader's last one. It returns the last sequence seen, with which
// the next call continues. It costs one small request if there is no new message; otherwise two for
// every thousand messages, and one more. A message with a foreign header does not keep the others
// from being read.
func (b *Broker) Changes(ctx context.Context, stream, subject string, after uint64, see func(*jetstream.RawStreamMsg) error) (last uint64, err error) {
	for {
		// Any replica answers a batch, and may lag behind. So the leader is asked for the first
		// message, and whether another one follows.
		m, err := b.Next(ctx, stream, subject, after+1)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return after, nil
		}
		if err == nil {
			err = see(m)
		}
		if err == nil {
			after, err = b.batch(ctx, stream, subject, m.Sequence, see)
		}
		if err != nil && !errors.Is(err, errForged) {
			return after, fmt.Errorf("reading new messages below %s: %w", subject, err)
		}
	}
}

// maxBatchTime is longer than any batch takes. natsext needs a bound.
const maxBatchTime = time.Hour

// batch goes on by a batch of messages. It returns errForged before a forged one. The time between two
// messages is bounded, and not that of the whole batch, which may take long over a slow link.
func (b *Broker) batch(ctx context.Context, stream, subject string, after uint64, see func(*jetstream.RawStreamMsg) error) (last uint64, err error) {
	request, err := json.Marshal(map[string]any{
		"seq": after + 1, "next_by_subj": subject, "batch": batchMessages, "max_bytes": batchBytes,
	})
	if err != nil {
		return after, err
	}
	waiting, stop := context.WithTimeout(undated{ctx}, maxBatchTime)
	defer stop()
	late := time.AfterFunc(b.Conn.Opts.Timeout, stop)
	defer late.Stop()
	status := ""
	answers, err := natsext.RequestMany(waiting, b.Conn, jetstream.DefaultAPIPrefix+"DIRECT.GET."+stream, request,
		natsext.RequestManySentinel(func(m *nats.Msg) bool {
			if m.Header.Get(jetstream.StreamHeader) == "" {
				status = m.Header.Get(headerStatus)
			}
			return status != ""
		}))
	if err != nil {
		return after, err
	}
	for answer, err := range answers {
		if err != nil && waiting.Err() != nil {
			break
		}
		late.Reset(b.Conn.Opts.Timeout)
		var m *jetstream.RawStreamMsg
		if err == nil {
			m, err = direct(answer)
		}
		if err == nil {
			err = see(m)
		}
		if err != nil {
			return after, err
		}
		after = m.Sequence
	}
	switch {
	case ctx.Err() != nil:
		return after, ctx.Err()
	case status == statusEnd, status == statusNone, status == statusNoReplica:
		return after, nil
	}
	// The answers also end without an error if the broker does not answer in time.
	return after, fmt.Errorf("%w: its answer is not complete (status %q)", ErrUnreachable, status)
}

// direct reads an answer of the stream's direct access. The server appends its headers to
// those of the message, so the last of a name is the server's.
func direct(answer *nats.Msg) (*jetstream.RawStreamMsg, error) {
	last := func(key string) string {
		if all := answer.Header.Values(key); len(all) > 0 {
			return all[len(all)-1]
		}
		return ""
	}
	m := &jetstream.RawStreamMsg{Subject: last(jetstream.SubjectHeader), Header: answer.Header, Data: answer.Data}
	var errSequence, errTime error
	m.Sequence, errSequence = strconv.ParseUint(last(jetstream.SequenceHeader), 10, 64)
	m.Time, errTime = time.Parse(time.RFC3339Nano, last(jetstream.TimeStampHeaer))
	if m.Subject == "" || errSequence != nil || errTime != nil {
		return nil, errForged
	}
	return m, nil
}

// Entries calls see with each entry of the bucket below keys, such as "*.*" or ">", as
// Changes does with messages; after is a revision. A key that was deleted is an entry
// whose Operation is not jetstream.KeyValuePut.
func (b *Broker) Entries(ctx context.Context, bucket, keys string, after uint64, see func(jetstream.KeyValueEntry)) (last uint64, err error) {
	prefix := bucketSubjects(bucket)
	return b.Changes(ctx, bucketStream(bucket), prefix+keys, after, func(m *jetstream.RawStreamMsg) error {
		see(entry{bucket, strings.TrimPrefix(m.Subject, prefix), m})
		return nil
	})
}

// errFound ends Find.
var errFound = errors.New("found")

// Find calls see with values of the bucket below keys, as Entries does, until see returns true.
func (b *Broker) Find(ctx context.Context, bucket, keys string, see func(jetstream.KeyValueEntry) bool) error {
	prefix := bucketSubjects(bucket)
	_, err := b.Changes(ctx, bucketStream(bucket), prefix+keys, 0, func(m *jetstream.RawStreamMsg) error {
		e := entry{bucket, strings.TrimPrefix(m.Subject, prefix), m}
		if e.Operation() == jetstream.KeyValuePut && see(e) {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return nil
	}
	return err
}

// Time returns the time of the broker's clock.
func (b *Broker) Time(ctx context.Context) (time.Time, error) {
	stream, err := b.JS.Stream(ctx, StreamName)
	if err != nil {
		return time.Time{}, fmt.Errorf("asking for the time of the broker: %w", err)
	}
	return stream.CachedInfo().TimeStamp, nil
}

// Count returns how many subjects below the given one have messages. It asks the stream's
// leader. The answer is small, however many there are.
func (b *Broker) Count(ctx context.Context, subject string) (int, error) {
	// nats.go reads all pages, of 100,000 subjects each. A page beyond the last one
	// has no subjects, but the total.
	request, err := json.Marshal(map[string]any{"subjects_filter": subject, "offset": math.MaxInt32})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
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
		return 0, fmt.Errorf("counting messages below %s: %w", subject, err)
	}
	return info.Total, nil
}
