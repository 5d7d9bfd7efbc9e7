package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// StreamName is the one stream of a deployment.
	StreamName = "MIRROR"
	// ConsumerName is the one consumer that all workers share.
	ConsumerName = "workers"
	// AckWait is how long a worker may be silent before its chunk is given to
	// another one.
	AckWait = time.Minute
	// embeddedAckWait is the same for the embedded broker: there is no slow network, and a
	// planner that was killed continues soon after it is started again.
	embeddedAckWait = 5 * time.Second
)

func streamConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               StreamName,
		Description:        "skopeo-worker: chunks, their schedules, and failures",
		Subjects:           []string{subject.All},
		Retention:          jetstream.WorkQueuePolicy,
		Storage:            jetstream.FileStorage,
		Replicas:           replicas,
		Discard:            jetstream.DiscardOld,
		MaxMsgs:            -1,
		MaxBytes:           -1,
		MaxMsgsPerSubject:  -1,
		AllowDirect:        true,
		AllowRollup:        true,
		AllowMsgTTL:        true,
		AllowMsgSchedules:  true,
		AllowAtomicPublish: true,
	}
}

// ensureStream creates the stream, or checks the one that is there. A limit that an
// operator has set is an error and is not removed: with it, the stream drops plans and
// failures silently, and may have done so.
func ensureStream(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = js.CreateStream(ctx, streamConfig(replicas))
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = js.Stream(ctx, StreamName) // another process was faster
		}
	}
	if code(err) == codeOverlap {
		other, _ := js.StreamNameBySubject(ctx, subject.All)
		return nil, fmt.Errorf("%w: stream %s has subjects below %s, which %s needs: remove it, or use another account", ErrForeignStream, other, subject.All, StreamName)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", StreamName, tooFew(unanswered(err), replicas))
	}
	have := s.CachedInfo().Config
	if err := checkStream(have); err != nil {
		return nil, err
	}
	// Replicas are raised and never lowered: a process with a lower NATS_REPLICAS must not
	// undo the setting of another one.
	if have.Replicas >= replicas && have.AllowMsgSchedules && have.AllowAtomicPublish && have.AllowMsgTTL && have.AllowDirect && have.AllowRollup {
		return s, nil
	}
	// Other settings of operators, such as a placement, stay.
	want := have
	want.Replicas = max(replicas, have.Replicas)
	want.AllowMsgSchedules, want.AllowAtomicPublish, want.AllowMsgTTL, want.AllowDirect, want.AllowRollup = true, true, true, true, true
	if s, err = js.UpdateStream(ctx, want); err != nil {
		return nil, fmt.Errorf("updating stream %s: %w", StreamName, tooFew(unanswered(err), replicas))
	}
	return s, nil
}

// tooFew marks an error as ErrTooFew if the broker cannot keep the replicas, now or later.
func tooFew(err error, replicas int) error {
	if !errors.Is(err, ErrUnreachable) && (code(err) == codeNoPeers || code(err) == codeNoReplicas) {
		return fmt.Errorf("%w: NATS_REPLICAS=%d: %w", ErrTooFew, replicas, err)
	}
	return err
}

// Error codes of nats-server that nats.go gives no names to.
const (
	codeOverlap        = 10065 // JSStreamSubjectOverlapErr
	codeConsumerUnique = 10100 // JSConsumerWQConsumerNotUniqueErr
	codeConsumerAll    = 10099 // JSConsumerWQMultipleUnfilteredErr
	codeConsumerGone   = 10149 // JSConsumerDoesNotExist: it is being deleted
	codeNoPeers        = 10005 // JSClusterNoPeersErrF
	codeNoReplicas     = 10074 // JSStreamReplicasNotSupportedErr: the server is alone
)

func code(err error) jetstream.ErrorCode {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode
	}
	return 0
}

func checkStream(c jetstream.StreamConfig) error {
	var wrong []string
	limit := func(name string, set bool) {
		if set {
			wrong = append(wrong, name)
		}
	}
	limit("MaxBytes", c.MaxBytes > 0)
	limit("MaxMsgs", c.MaxMsgs > 0)
	limit("MaxMsgsPerSubject", c.MaxMsgsPerSubject > 0)
	limit("MaxAge", c.MaxAge > 0)
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s has limits, with which it would drop messages: remove %s",
			ErrForeignStream, StreamName, strings.Join(wrong, ", "))
	}
	if c.Retention != jetstream.WorkQueuePolicy || c.Discard != jetstream.DiscardOld || c.Storage != jetstream.FileStorage ||
		len(c.Subjects) != 1 || c.Subjects[0] != subject.All {
		return fmt.Errorf("%w: %s must be a work queue of %s in files that discards old messages", ErrForeignStream, StreamName, subject.All)
	}
	return nil
}

var errForeignConsumer = fmt.Errorf("%w: consumer %s must be pulled, read %s.> with explicit acks, and have no MaxDeliver: remove it", ErrForeignStream, ConsumerName, subject.Chunk)

// ensureConsumer creates the workers' consumer, or checks the one that is there.
func ensureConsumer(ctx context.Context, s jetstream.Stream, ackWait time.Duration) (jetstream.Consumer, error) {
	c, err := s.Consumer(ctx, ConsumerName)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		c, err = s.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable:       ConsumerName,
			FilterSubject: subject.Chunk + ".>",
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       ackWait,
			MaxDeliver:    -1,
			// A worker holds a few chunks; there may be any number of workers.
			MaxAckPending: -1,
		})
		if errors.Is(err, jetstream.ErrConsumerExists) {
			c, err = s.Consumer(ctx, ConsumerName)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return nil, fmt.Errorf("%w: %w", errForeignConsumer, err)
	case code(err) == codeConsumerUnique, code(err) == codeConsumerAll:
		return nil, fmt.Errorf("%w: another consumer of %s reads the same messages: remove it", ErrForeignStream, StreamName)
	default:
		return nil, fmt.Errorf("consumer %s: %w", ConsumerName, unanswered(err))
	}
	have := c.CachedInfo().Config
	if have.MaxDeliver > 0 || have.AckPolicy != jetstream.AckExplicitPolicy || have.FilterSubject != subject.Chunk+".>" {
		return nil, errForeignConsumer
	}
	return c, nil
}

const (
	// keepInterval is how often Keep checks the broker.
	keepInterval = 5 * time.Second
	// roomEvery is how many checks of a shared broker include one of its disk.
	roomEvery = 3
)

// Keep recreates streams and buckets that are deleted at the broker, and checks the versions of its
// servers, until ctx ends. It returns ErrTooOld or ErrForeignStream if the broker must not be used
// any longer, and ErrFull if the broker is embedded and its disk was full, because then only a
// restart helps. While the broker is away, Keep waits.
func (b *Broker) Keep(ctx context.Context) error {
	connected := b.Conn.StatusChanged(nats.CONNECTED)
	defer b.Conn.RemoveStatusListener(connected)
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	full := false
	for look := 0; ; look++ {
		err := b.Ensure(ctx)
		// With several replicas, a server without room leaves the lead to another one.
		// An embedded broker has just started, and has failed to write nothing yet.
		room := err == nil && b.Replicas == 1 && (b.Embedded() && look > 0 || !b.Embedded() && look%roomEvery == 0)
		if room {
			err = b.Writable(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrTooOld), errors.Is(err, ErrForeignStream), b.Embedded() && errors.Is(err, ErrFull):
			return err
		case errors.Is(err, ErrFull):
			if !full {
				b.log.Error("the broker cannot store messages", "error", err)
			}
			full = true
		case err != nil:
			b.log.Debug("checking the broker", "error", err)
		case room && full:
			b.log.Info("the broker stores messages again")
			full = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-connected:
		case <-ticker.C:
		}
	}
}

// deletedAfter is the pause between the deletion of a stream or consumer and its creation by Ensure and
// AwaitDeletion: nats-server forgets a stream or a consumer before it deletes the files. If it is
// created in between, it has the old messages, and loses its files (stream.go, stop). This is far longer
// than that takes.
const deletedAfter = 2 * time.Second

// Ensure does once what Keep does repeatedly, except the check of the disk.
func (b *Broker) Ensure(ctx context.Context) error {
	if err := b.versions.connected(b.Conn); err != nil {
		return err
	}
	missing, err := b.missing(ctx)
	if err == nil {
		err = b.awaitDeletion(ctx, len(missing) > 0)
	}
	if err != nil {
		return err
	}
	s, c, err := b.ensure(ctx)
	if err != nil {
		return err
	}
	if created := s.CachedInfo().Created; b.streamCreated.Swap(created.UnixNano()) != created.UnixNano() {
		b.log.Error("the stream was deleted at the broker; created it again, without its chunks and failures", "stream", StreamName)
	}
	if created := c.CachedInfo().Created; b.consumerCreated.Swap(created.UnixNano()) != created.UnixNano() {
		b.log.Warn("the consumer was deleted at the broker; created it again; chunks that workers have are delivered to other workers, too", "consumer", ConsumerName)
	}
	return b.recreate(ctx, missing)
}

// awaitDeletion waits for deletedAfter if the consumer or its stream is missing, or another
// stream is.
func (b *Broker) awaitDeletion(ctx context.Context, missing bool) error {
	if !missing {
		switch _, err := b.JS.Consumer(ctx, StreamName, ConsumerName); {
		case err == nil, errors.Is(err, jetstream.ErrNotPullConsumer):
			return nil // ensure refuses the latter
		case !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("consumer %s: %w", ConsumerName, unanswered(err))
		}
	}
	return AwaitDeletion(ctx)
}

// AwaitDeletion waits until a stream that was just found to be missing, and that existed before, can be
// created again. It returns ctx's error if ctx ends first.
func AwaitDeletion(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deletedAfter):
		return nil
	}
}

// maker creates a stream if it is missing, and reports whether it was.
type maker func(context.Context) (made bool, err error)

// own opens a stream besides StreamName, or a bucket, and makes Keep recreate it.
func own[T any](ctx context.Context, b *Broker, stream string, open func(context.Context) (opened T, made bool, err error)) (opened T, err error) {
	err = Answered(ctx, func() error {
		opened, _, err = open(ctx)
		return err
	})
	if err != nil {
		return opened, err
	}
	b.owning.Lock()
	defer b.owning.Unlock()
	b.owned[stream] = func(ctx context.Context) (bool, error) {
		_, made, err := open(ctx)
		return made, err
	}
	return opened, nil
}

// missing returns the streams besides StreamName that are not at the broker.
func (b *Broker) missing(ctx context.Context) (map[string]maker, error) {
	exists := map[string]bool{}
	names := b.JS.StreamNames(ctx)
	for name := range names.Name() {
		exists[name] = true
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("listing streams: %w", err)
	}
	b.owning.Lock()
	missing := maps.Clone(b.owned)
	b.owning.Unlock()
	maps.DeleteFunc(missing, func(name string, _ maker) bool { return exists[name] })
	return missing, nil
}

func (b *Broker) recreate(ctx context.Context, missing map[string]maker) error {
	for name, m := range missing {
		made, err := m(ctx)
		if err != nil {
			return fmt.Errorf("recreating stream %s: %w", name, err)
		}
		if made {
			b.log.Error("a stream was deleted at the broker; created it again, empty", "stream", name)
		}
	}
	return nil
}

// bucketStream returns the stream of a bucket, and bucketSubjects the beginning of its subjects
// (ADR-8).
func bucketStream(bucket string) string   { return "KV_" + bucket }
func bucketSubjects(bucket string) string { return "$KV." + bucket + "." }

// Bucket opens a key-value bucket, and creates it if it is missing. Keep recreates it.
func (b *Broker) Bucket(ctx context.Context, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := own(ctx, b, bucketStream(c.Bucket), func(ctx context.Context) (jetstream.KeyValue, bool, error) { return b.openBucket(ctx, c) })
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", c.Bucket, err)
	}
	return bucket{kv, b}, nil
}

func (b *Broker) openBucket(ctx context.Context, c jetstream.KeyValueConfig) (kv jetstream.KeyValue, made bool, err error) {
	kv, err = b.JS.KeyValue(ctx, c.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		c.Replicas = b.Replicas
		kv, err = b.JS.CreateKeyValue(ctx, c)
		made = err == nil
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = b.JS.KeyValue(ctx, c.Bucket)
		}
	}
	return kv, made, err
}

// OpenStream opens a stream besides StreamName, and creates it if it is missing. Keep recreates it.
func (b *Broker) OpenStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := own(ctx, b, c.Name, func(ctx context.Context) (jetstream.Stream, bool, error) { return b.openStream(ctx, c) })
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", c.Name, err)
	}
	return stream, nil
}

func (b *Broker) openStream(ctx context.Context, c jetstream.StreamConfig) (stream jetstream.Stream, made bool, err error) {
	stream, err = b.JS.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		c.Replicas = b.Replicas
		stream, err = b.JS.CreateStream(ctx, c)
		made = err == nil
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = b.JS.Stream(ctx, c.Name)
		}
	}
	return stream, made, err
}
