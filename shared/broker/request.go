package broker

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// undated is a context without its deadline. It still ends with that context. nats.go bounds a
// request by requestTimeout only if its context has no deadline. Otherwise, it would wait for an
// answer that was lost until the deadline, which may be hours away.
type undated struct{ context.Context }

// Deadline implements context.Context.
func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// requests bounds each request by requestTimeout.
type requests struct{ jetstream.JetStream }

// Publish implements jetstream.JetStream. Unlike PublishMsg, it does not wait until a server takes the
// message.
func (r requests) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return r.JetStream.Publish(undated{ctx}, subject, data, opts...)
}

// PublishMsg implements jetstream.JetStream.
func (r requests) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return responded(ctx, func() (*jetstream.PubAck, error) { return r.JetStream.PublishMsg(undated{ctx}, m, opts...) })
}

// AccountInfo implements jetstream.JetStream.
func (r requests) AccountInfo(ctx context.Context) (*jetstream.AccountInfo, error) {
	return r.JetStream.AccountInfo(undated{ctx})
}

// Stream implements jetstream.JetStream.
func (r requests) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	return boundedStream(r.JetStream.Stream(undated{ctx}, name))
}

// CreateStream implements jetstream.JetStream.
func (r requests) CreateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	return boundedStream(placed(ctx, func() (jetstream.Stream, error) { return r.JetStream.CreateStream(undated{ctx}, c) }))
}

// UpdateStream implements jetstream.JetStream.
func (r requests) UpdateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	return boundedStream(r.JetStream.UpdateStream(undated{ctx}, c))
}

// StreamNameBySubject implements jetstream.JetStream.
func (r requests) StreamNameBySubject(ctx context.Context, subject string) (string, error) {
	return r.JetStream.StreamNameBySubject(undated{ctx}, subject)
}

// StreamNames implements jetstream.JetStream.
func (r requests) StreamNames(ctx context.Context, opts ...jetstream.StreamListOpt) jetstream.StreamNameLister {
	return r.JetStream.StreamNames(undated{ctx}, opts...)
}

// ListStreams implements jetstream.JetStream.
func (r requests) ListStreams(ctx context.Context, opts ...jetstream.StreamListOpt) jetstream.StreamInfoLister {
	return r.JetStream.ListStreams(undated{ctx}, opts...)
}

// Consumer implements jetstream.JetStream.
func (r requests) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	return r.JetStream.Consumer(undated{ctx}, stream, name)
}

// KeyValue implements jetstream.JetStream.
func (r requests) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	return r.JetStream.KeyValue(undated{ctx}, bucket)
}

// CreateKeyValue implements jetstream.JetStream.
func (r requests) CreateKeyValue(ctx context.Context, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	return placed(ctx, func() (jetstream.KeyValue, error) { return r.JetStream.CreateKeyValue(undated{ctx}, c) })
}

// stream bounds each request by requestTimeout.
type stream struct{ jetstream.Stream }

func boundedStream(s jetstream.Stream, err error) (jetstream.Stream, error) {
	if err != nil {
		return nil, err
	}
	return stream{s}, nil
}

// Info implements jetstream.Stream.
func (s stream) Info(ctx context.Context, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	return s.Stream.Info(undated{ctx}, opts...)
}

// Purge implements jetstream.Stream.
func (s stream) Purge(ctx context.Context, opts ...jetstream.StreamPurgeOpt) error {
	return s.Stream.Purge(undated{ctx}, opts...)
}

// GetMsg implements jetstream.Stream.
func (s stream) GetMsg(ctx context.Context, sequence uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	return s.Stream.GetMsg(undated{ctx}, sequence, opts...)
}

// GetLastMsgForSubject implements jetstream.Stream.
func (s stream) GetLastMsgForSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return s.Stream.GetLastMsgForSubject(undated{ctx}, subject)
}

// DeleteMsg implements jetstream.Stream.
func (s stream) DeleteMsg(ctx context.Context, sequence uint64) error {
	return s.Stream.DeleteMsg(undated{ctx}, sequence)
}

// Consumer implements jetstream.Stream.
func (s stream) Consumer(ctx context.Context, name string) (jetstream.Consumer, error) {
	return s.Stream.Consumer(undated{ctx}, name)
}

// CreateConsumer implements jetstream.Stream.
func (s stream) CreateConsumer(ctx context.Context, c jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return s.Stream.CreateConsumer(undated{ctx}, c)
}
