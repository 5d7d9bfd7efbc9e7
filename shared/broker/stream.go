package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

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
	// embeddedAckWait is the same for the embedded broker: there is no network to be
	// slow, and a planner that was killed shall go on soon after it is started again.
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

// ensureStream creates the stream, or checks the one that is there. A limit that
// somebody else has set is an error and not mended: with it the stream drops
// plans and failures without a word, and may already have done so.
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
		return nil, fmt.Errorf("stream %s: %w", StreamName, unanswered(err))
	}
	have := s.CachedInfo().Config
	if err := checkStream(have); err != nil {
		return nil, err
	}
	// Replicas are raised and never lowered: one process that is not told of them
	// must not undo what another has asked for.
	if have.Replicas >= replicas && have.AllowMsgSchedules && have.AllowAtomicPublish && have.AllowMsgTTL && have.AllowDirect && have.AllowRollup {
		return s, nil
	}
	// What else somebody has set, such as a placement, stays.
	want := have
	want.Replicas = max(replicas, have.Replicas)
	want.AllowMsgSchedules, want.AllowAtomicPublish, want.AllowMsgTTL, want.AllowDirect, want.AllowRollup = true, true, true, true, true
	if s, err = js.UpdateStream(ctx, want); err != nil {
		return nil, fmt.Errorf("updating stream %s: %w", StreamName, unanswered(err))
	}
	return s, nil
}

// Error codes of nats-server that nats.go gives no names to.
const (
	codeOverlap        = 10065 // JSStreamSubjectOverlapErr
	codeConsumerUnique = 10100 // JSConsumerWQConsumerNotUniqueErr
	codeConsumerAll    = 10099 // JSConsumerWQMultipleUnfilteredErr
)

func code(err error) jetstream.ErrorCode {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode
	}
	return 0
}

// unanswered marks an error as ErrUnreachable where the broker gave no answer, or
// says that it cannot give one for now.
func unanswered(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.Code == http.StatusServiceUnavailable {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
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
			// Each worker holds one chunk; there may be any number of workers.
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

// Answered makes a request again that the broker has not answered in time: a cluster
// that has just started, and is asked for the same by all of a deployment at once, leaves
// some of them without an answer. Three times requestTimeout outlasts an election.
func Answered(ctx context.Context, request func() error) error {
	const most = 3
	for n := 1; ; n++ {
		if err := request(); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || n == most {
			return err
		}
	}
}
