// Package release stores exceptions from minimum ages: digests that are mirrored before their tags have
// had them for long enough.
package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// bucket holds the releases.
	bucket = "mirror_releases"
	// Keep is how long a release counts. After that, the digest is older than any useful minimum
	// age.
	Keep = 90 * 24 * time.Hour
)

// Release is a digest that need not wait for its minimum age.
type Release struct {
	Repository reference.Repository `json:"repository"` // of the source
	Digest     reference.Digest     `json:"digest"`
	Tag        reference.Tag        `json:"tag,omitzero"` // tag in the command that released it
	By         string               `json:"by"`           // user and host
	At         time.Time            `json:"at"`
}

// Image returns the name of the image at the source.
func (r Release) Image() string {
	return reference.Reference{Repository: r.Repository, Tag: r.Tag, Digest: r.Digest}.String()
}

// Store reads and writes releases. It is safe for concurrent use.
type Store struct {
	b  *broker.Broker
	kv jetstream.KeyValue
}

// Open returns the store of a broker, and creates its bucket if it is missing.
func Open(ctx context.Context, b *broker.Broker) (*Store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucket, Description: "skopeo-worker: digests that wait for no minimum age", TTL: Keep})
	if err != nil {
		return nil, err
	}
	return &Store{b, kv}, nil
}

func key(repository reference.Repository, digest reference.Digest) string {
	return subject.Hash(repository.String() + "@" + digest.String())
}

// Add stores a release. It replaces an earlier one of the same digest.
func (s *Store) Add(ctx context.Context, r Release) error {
	data, err := json.Marshal(r)
	if err == nil {
		_, err = s.kv.Put(ctx, key(r.Repository, r.Digest), data)
	}
	if err != nil {
		return fmt.Errorf("storing the release of %s: %w", r.Image(), err)
	}
	return nil
}

// Has reports whether a digest of a repository is released.
func (s *Store) Has(ctx context.Context, repository reference.Repository, digest reference.Digest) (bool, error) {
	entry, err := s.kv.Get(ctx, key(repository, digest))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading whether %s@%s is released: %w", repository, digest, err)
	}
	r, ok := parse(entry.Value())
	return ok && r.Repository == repository && r.Digest == digest, nil
}

// List returns all releases, the newest first.
func (s *Store) List(ctx context.Context) ([]Release, error) {
	var all []Release
	_, err := s.b.Entries(ctx, bucket, "*", 0, func(e jetstream.KeyValueEntry) {
		if r, ok := parse(e.Value()); ok && e.Operation() == jetstream.KeyValuePut {
			all = append(all, r)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing releases: %w", err)
	}
	slices.SortFunc(all, func(a, b Release) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return strings.Compare(a.Image(), b.Image())
	})
	return all, nil
}

// parse reads a release. It returns false for anything else, which another program has stored.
func parse(data []byte) (Release, bool) {
	var r Release
	err := json.Unmarshal(data, &r)
	return r, err == nil && !r.Repository.IsZero() && !r.Digest.IsZero()
}
