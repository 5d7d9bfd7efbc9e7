package consume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/platform"
)

// insistInterval is the pause between two tries to tell the broker something.
const insistInterval = time.Second

// patience is how often a broker that is connected is asked for what can be done
// without: after a restart it opens its streams for some seconds.
const patience = 10

// insist repeats what the broker has to be told until it has been, or ctx ends, or
// the broker answers with a refusal. A broker that restarts must cost no work.
func insist(ctx context.Context, log *slog.Logger, tell func(context.Context) error) error {
	for {
		err := tell(ctx)
		if err == nil || hopeless(err) || ctx.Err() != nil {
			return err
		}
		if broker.Full(err) {
			log.Error("the broker's disk is full, trying again", "error", err)
		} else {
			log.Warn("the broker does not answer, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(insistInterval):
		}
	}
}

// errGivenUp ends the insisting on something that can be done without.
var errGivenUp = errors.New("gave up")

func hopeless(err error) bool {
	var refused *jetstream.APIError
	return errors.Is(err, broker.ErrConflict) || errors.Is(err, errGivenUp) ||
		errors.Is(err, nats.ErrConnectionClosed) || // by ourselves: we reconnect for ever
		errors.As(err, &refused) && refused.Code < http.StatusInternalServerError && !broker.Full(err)
}

// patient is a tell for insist that outlasts a broker that is away, but not one that
// is there and does not answer: the bucket or the consumer has been deleted.
func patient(conn *nats.Conn, tell func(context.Context) error) func(context.Context) error {
	tries := 0
	return func(ctx context.Context) error {
		err := tell(ctx)
		if err == nil || !conn.IsConnected() {
			return err
		}
		if tries++; tries == patience {
			return fmt.Errorf("%w: %w", errGivenUp, err)
		}
		return err
	}
}

// insistent keeps failures through a broker's restart.
type insistent struct {
	*failure.Store
	log *slog.Logger
}

func (i insistent) Add(ctx context.Context, name string, r failure.Record) error {
	return insist(ctx, i.log, func(ctx context.Context) error { return i.Store.Add(ctx, name, r) })
}

func (i insistent) Subtract(ctx context.Context, name, registry, repository string, mirrored func(string) bool) (n int, err error) {
	err = insist(ctx, i.log, func(ctx context.Context) error {
		n, err = i.Store.Subtract(ctx, name, registry, repository, mirrored)
		return err
	})
	return n, err
}

// insistentResolutions does the same for resolutions.
type insistentResolutions struct {
	*resolutions
	log *slog.Logger
}

func (i insistentResolutions) Resolved(ctx context.Context, c message.Chunk, r message.Repository) error {
	return insist(ctx, i.log, func(ctx context.Context) error { return i.resolutions.Resolved(ctx, c, r) })
}

func (i insistentResolutions) Superseded(ctx context.Context, c message.Chunk, r message.Repository) (superseded bool, err error) {
	err = insist(ctx, i.log, func(ctx context.Context) error {
		superseded, err = i.resolutions.Superseded(ctx, c, r)
		return err
	})
	return superseded, err
}

// insistentAbsences does the same for absences.
type insistentAbsences struct {
	absences chunk.Absences
	log      *slog.Logger
}

func (i insistentAbsences) Absent(ctx context.Context, digest reference.Digest, w platform.Wanted) (absent bool, err error) {
	err = insist(ctx, i.log, func(ctx context.Context) error {
		absent, err = i.absences.Absent(ctx, digest, w)
		return err
	})
	return absent, err
}

func (i insistentAbsences) NoteAbsent(ctx context.Context, digest reference.Digest, w platform.Wanted) error {
	return insist(ctx, i.log, func(ctx context.Context) error { return i.absences.NoteAbsent(ctx, digest, w) })
}
