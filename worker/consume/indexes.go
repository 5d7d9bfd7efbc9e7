package consume

import (
	"bytes"
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// indexBucket holds indexes that are copied over several windows of a budget.
	indexBucket = "mirror_indexes"
	// keepIndex is longer than any window that a registry is known to have (6 h).
	keepIndex = 24 * time.Hour
)

// indexes implements mirror.Indexes for the whole fleet.
type indexes struct {
	kv  jetstream.KeyValue
	log *slog.Logger
}

func openIndexes(ctx context.Context, b *broker.Broker, log *slog.Logger) (*indexes, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      indexBucket,
		Description: "skopeo-worker: indexes that are copied over several windows",
		TTL:         keepIndex,
	})
	return &indexes{kv: kv, log: log}, err
}

func indexKey(digest reference.Digest) string { return digest.Algorithm() + "-" + digest.Hex() }

// Index implements mirror.Indexes. What was kept is only believed if it has the digest.
func (i *indexes) Index(ctx context.Context, wanted reference.Digest) (registry.Manifest, bool) {
	entry, err := i.kv.Get(ctx, indexKey(wanted))
	if err != nil {
		return registry.Manifest{}, false
	}
	mediaType, raw, _ := bytes.Cut(entry.Value(), []byte("\n"))
	if wanted.Of(raw) != wanted {
		return registry.Manifest{}, false
	}
	return registry.Manifest{Raw: raw, MediaType: string(mediaType), Digest: wanted}, true
}

// KeepIndex implements mirror.Indexes.
func (i *indexes) KeepIndex(ctx context.Context, index registry.Manifest) {
	if len(index.Raw) > message.MaxSize {
		return
	}
	value := append([]byte(index.MediaType+"\n"), index.Raw...)
	if _, err := i.kv.Put(context.WithoutCancel(ctx), indexKey(index.Digest), value); err != nil {
		i.log.Debug("keeping an index", "digest", index.Digest, "error", err)
	}
}
