package consume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
)

// resolutionBucket holds, for each entry, the newest run that has resolved it.
const resolutionBucket = "mirror_resolved"

type resolutions struct{ kv jetstream.KeyValue }

func openResolutions(ctx context.Context, b *broker.Broker) (*resolutions, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      resolutionBucket,
		Description: "skopeo-worker: the last run that resolved an entry",
		TTL:         run.Keep,
	})
	return &resolutions{kv: kv}, err
}

// resolutionKey stands for an entry with its selection and its destination: only
// the same one again takes over from an older run.
func resolutionKey(name string, r message.Repository) string {
	var chosen selection.Selection
	if r.Selection != nil {
		chosen = *r.Selection
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s", r.Source, r.Tag, r.Digest, r.Destination, chosen.Hash()))
	return name + "." + hex.EncodeToString(sum[:16])
}

// Resolved implements chunk.Resolutions. Of two runs, the newer one stays.
func (s *resolutions) Resolved(ctx context.Context, c message.Chunk, r message.Repository) error {
	newest, err := s.newest(ctx, c.Name, r)
	if err != nil || newest >= c.Run {
		return err
	}
	if _, err := s.kv.PutString(ctx, resolutionKey(c.Name, r), c.Run); err != nil {
		return fmt.Errorf("noting that %s is resolved: %w", r.Source, err)
	}
	return nil
}

// Superseded implements chunk.Resolutions.
func (s *resolutions) Superseded(ctx context.Context, c message.Chunk, r message.Repository) (bool, error) {
	newest, err := s.newest(ctx, c.Name, r)
	return newest > c.Run, err
}

func (s *resolutions) newest(ctx context.Context, name string, r message.Repository) (string, error) {
	entry, err := s.kv.Get(ctx, resolutionKey(name, r))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("asking who resolved %s last: %w", r.Source, err)
	}
	if id := string(entry.Value()); run.ValidID(id) {
		return id, nil
	}
	return "", nil // not written by a worker
}
