package consume

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
)

// insistInterval is the pause between two tries to tell the broker something.
const insistInterval = time.Second

// insist repeats what the broker has to be told until it has been, or ctx ends, or
// the broker answers with a refusal. A broker that restarts must cost no work.
func insist(ctx context.Context, log *slog.Logger, tell func(context.Context) error) error {
	for {
		err := tell(ctx)
		var refused *jetstream.APIError
		if err == nil || errors.Is(err, broker.ErrConflict) || errors.As(err, &refused) && refused.Code < 500 {
			return err
		}
		log.Warn("the broker does not answer, trying again", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(insistInterval):
		}
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
