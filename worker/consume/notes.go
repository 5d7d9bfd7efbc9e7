package consume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Buckets of notes.
const (
	absentBucket = "mirror_absent"  // manifests without a wanted platform
	indexBucket  = "mirror_indexes" // indexes that are copied over several windows of a budget
	// keepIndex is longer than the longest known window of a registry (6 h).
	keepIndex = 24 * time.Hour
)

// Notes are what workers remember at the broker. A lost note costs some requests. An entry that is
// not a note is ignored. Notes implements chunk.Notes and mirror.Indexes.
type Notes struct {
	resolved, absent, indexes, held, sighted, backups, listed jetstream.KeyValue
	broker                                                    *broker.Broker
	releases                                                  *release.Store
	log                                                       *slog.Logger
	oldest                                                    *oldestRuns
	once                                                      bool
}

// OpenNotes returns the notes of a broker. Their methods retry until the broker answers.
func OpenNotes(ctx context.Context, b *broker.Broker, log *slog.Logger) (*Notes, error) {
	n := &Notes{broker: b, log: log, oldest: &oldestRuns{known: map[string]oldestRun{}}}
	for _, bucket := range []struct {
		kv                *jetstream.KeyValue
		name, description string
		keep              time.Duration
	}{
		{&n.resolved, resolvedBucket, "the last run that resolved an entry", run.Keep},
		{&n.absent, absentBucket, "manifests without a wanted platform", run.Keep},
		{&n.held, heldBucket, "immutable tags that destinations have", keepHeld},
		{&n.listed, listedBucket, "how many tags sources list", keepListed},
		{&n.backups, backupBucket, "backups of tags that were replaced", 0},
		{&n.sighted, sightedBucket, "since when tags of sources have their digests", 0},
		{&n.indexes, indexBucket, "indexes that are copied over several windows", keepIndex},
	} {
		var err error
		c := jetstream.KeyValueConfig{Bucket: bucket.name, Description: "skopeo-worker: " + bucket.description, TTL: bucket.keep}
		if *bucket.kv, err = b.Bucket(ctx, c); err != nil {
			return nil, err
		}
	}
	var err error
	n.releases, err = release.Open(ctx, b)
	return n, err
}

// Once returns the notes without retries.
func (n *Notes) Once() *Notes {
	once := *n
	once.once = true
	return &once
}

func (n *Notes) retry(ctx context.Context, operation func(context.Context) error) error {
	if n.once {
		return operation(ctx)
	}
	return retry(ctx, n.log, operation)
}

// read returns a note, or "" if there is none.
func (n *Notes) read(ctx context.Context, bucket jetstream.KeyValue, key string) (string, error) {
	entry, err := n.get(ctx, bucket, key)
	if entry == nil {
		return "", err
	}
	return string(entry.Value()), nil
}

// get returns the entry of a note, or nil if there is none.
func (n *Notes) get(ctx context.Context, bucket jetstream.KeyValue, key string) (entry jetstream.KeyValueEntry, err error) {
	err = n.retry(ctx, func(ctx context.Context) error {
		var err error
		if entry, err = bucket.Get(ctx, key); err == nil || errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil
		}
		return fmt.Errorf("reading a note in %s: %w", bucket.Bucket(), err)
	})
	return entry, err
}

func (n *Notes) write(ctx context.Context, bucket jetstream.KeyValue, key, note string) error {
	return n.retry(ctx, func(ctx context.Context) error {
		if _, err := bucket.PutString(ctx, key, note); err != nil {
			return fmt.Errorf("writing a note in %s: %w", bucket.Bucket(), err)
		}
		return nil
	})
}

// update changes a note. See broker.Update.
func (n *Notes) update(ctx context.Context, bucket jetstream.KeyValue, key string, change func(jetstream.KeyValueEntry) ([]byte, error)) error {
	return n.retry(ctx, func(ctx context.Context) error {
		_, err := broker.Update(ctx, bucket, key, change)
		return err
	})
}

// fit returns a note as JSON. If it is too large for a message, fit removes the oldest of its tags.
func fit[T any](note any, tags map[reference.Tag]T, older func(a, b T) int) ([]byte, error) {
	for {
		data, err := json.Marshal(note)
		if err != nil || len(data) <= message.MaxSize {
			return data, err
		}
		oldest := slices.SortedFunc(maps.Keys(tags), func(a, b reference.Tag) int { return older(tags[a], tags[b]) })
		for _, tag := range oldest[:1+len(oldest)/10] {
			delete(tags, tag)
		}
	}
}

// keyOf returns the key of a note about a repository.
func keyOf(r reference.Repository) string { return subject.Hash(r.String()) }

func absentKey(digest reference.Digest, w platform.Wanted) string {
	return subject.Hash(fmt.Sprintf("%s\n%q\n%t", digest, w.Platforms, w.WithoutAttestations))
}

// Absent implements chunk.Notes.
func (n *Notes) Absent(ctx context.Context, digest reference.Digest, w platform.Wanted) (bool, error) {
	note, err := n.read(ctx, n.absent, absentKey(digest, w))
	return note == digest.String(), err
}

// NoteAbsent implements chunk.Notes.
func (n *Notes) NoteAbsent(ctx context.Context, digest reference.Digest, w platform.Wanted) error {
	return n.write(ctx, n.absent, absentKey(digest, w), digest.String())
}

func indexKey(digest reference.Digest) string { return digest.Algorithm() + "-" + digest.Hex() }

// Index implements mirror.Indexes. It does not retry, because the registry has the index, too. A
// note with another digest does not count.
func (n *Notes) Index(ctx context.Context, wanted reference.Digest) (registry.Manifest, bool) {
	note, err := n.Once().read(ctx, n.indexes, indexKey(wanted))
	mediaType, raw, _ := bytes.Cut([]byte(note), []byte("\n"))
	if err != nil || wanted.Of(raw) != wanted {
		return registry.Manifest{}, false
	}
	return registry.Manifest{Raw: raw, MediaType: string(mediaType), Digest: wanted}, true
}

// KeepIndex implements mirror.Indexes. It does not keep an index that is too large for a message.
func (n *Notes) KeepIndex(ctx context.Context, index registry.Manifest) {
	if len(index.Raw) > message.MaxSize {
		return
	}
	note := index.MediaType + "\n" + string(index.Raw)
	if err := n.Once().write(context.WithoutCancel(ctx), n.indexes, indexKey(index.Digest), note); err != nil {
		n.log.Debug("keeping an index", "digest", index.Digest, "error", err)
	}
}
