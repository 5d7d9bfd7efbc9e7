package consume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/platform"
)

// absenceBucket holds the manifests that have nothing for the platforms that were
// wanted of them.
const absenceBucket = "mirror_absent"

// absences implements chunk.Absences. Losing one costs a pull.
type absences struct{ kv jetstream.KeyValue }

// OpenAbsences returns what the workers of a broker have noted.
func OpenAbsences(ctx context.Context, b *broker.Broker) (chunk.Absences, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      absenceBucket,
		Description: "skopeo-worker: manifests without a wanted platform",
		TTL:         run.Keep,
	})
	return &absences{kv: kv}, err
}

func absenceKey(digest reference.Digest, w platform.Wanted) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%q\n%t", digest, w.Platforms, w.WithoutAttestations))
	return hex.EncodeToString(sum[:16])
}

func (a *absences) Absent(ctx context.Context, digest reference.Digest, w platform.Wanted) (bool, error) {
	entry, err := a.kv.Get(ctx, absenceKey(digest, w))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking what is known of %s: %w", digest, err)
	}
	return string(entry.Value()) == digest.String(), nil // else no worker has written it
}

func (a *absences) NoteAbsent(ctx context.Context, digest reference.Digest, w platform.Wanted) error {
	if _, err := a.kv.PutString(ctx, absenceKey(digest, w), digest.String()); err != nil {
		return fmt.Errorf("noting that %s has no wanted platform: %w", digest, err)
	}
	return nil
}
