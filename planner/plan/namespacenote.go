package plan

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// namespaceBucket holds the repositories of each namespace at its last plan.
	namespaceBucket = "mirror_namespaces"
	// maxNoted bounds the names of repositories in one entry of the bucket, in bytes. The other fields
	// need the rest of message.MaxSize.
	maxNoted = message.MaxSize - 4<<10
)

// namespaceNote lists the repositories that a namespace had at a time. If they do not fit into one entry
// of the bucket, further entries, called pages, hold the rest.
type namespaceNote struct {
	Namespace    string                 `json:"namespace"`
	Repositories []reference.Repository `json:"repositories"`
	Listed       time.Time              `json:"listed"`
	Pages        int                    `json:"pages,omitzero"`
	Version      string                 `json:"version,omitzero"` // the pages have the same one
	Second       bool                   `json:"second,omitzero"`  // the pages have the second set of keys
}

// namespacePage continues a note.
type namespacePage struct {
	Version      string                 `json:"version"`
	Repositories []reference.Repository `json:"repositories"`
}

// page returns the key of a page. Notes use two sets of keys in turn: a note stays whole while the next
// one is written, and the broker does not have to remember more and more deleted keys.
func (n namespaceNote) page(key string, i int) string {
	set := "a"
	if n.Second {
		set = "b"
	}
	return key + "." + set + "." + strconv.Itoa(i)
}

func namespaceKey(name string, n list.Namespace) string {
	return name + "." + subject.Hash(n.Namespace.String())
}

func (x *Namespaces) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	return x.Broker.Bucket(ctx, jetstream.KeyValueConfig{Bucket: namespaceBucket, Description: "skopeo-worker: repositories of namespaces when they were last planned"})
}

// Remember stores the repositories of the namespaces. Call it once the plan is published. If it fails,
// the next plan compares with older notes.
func (x *Namespaces) Remember(ctx context.Context) error {
	kv, err := x.bucket(ctx)
	if err != nil {
		return err
	}
	for key, note := range x.noted {
		if err := writeNote(ctx, kv, key, note, maxNoted); err != nil {
			return fmt.Errorf("storing the repositories of %s: %w", note.Namespace, err)
		}
	}
	return nil
}

// writeNote replaces a note. It writes the new pages first, and deletes the old pages last, so that a
// complete note exists at every moment.
func writeNote(ctx context.Context, kv jetstream.KeyValue, key string, note namespaceNote, limit int) error {
	last, err := readHead(ctx, kv, key)
	if err != nil {
		return err
	}
	parts := paged(note.Repositories, limit)
	if note.Repositories, note.Pages = parts[0], len(parts)-1; note.Pages > 0 {
		note.Version, note.Second = rand.Text(), !last.Second
	}
	for i, part := range parts[1:] {
		if err := put(ctx, kv, note.page(key, i), namespacePage{note.Version, part}); err != nil {
			return err
		}
	}
	if err := put(ctx, kv, key, note); err != nil {
		return err
	}
	for i := range last.Pages {
		if err := kv.Purge(ctx, last.page(key, i)); err != nil {
			return err
		}
	}
	return nil
}

func put(ctx context.Context, kv jetstream.KeyValue, key string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		_, err = kv.Put(ctx, key, data)
	}
	return err
}

// paged splits repositories into parts of at most limit bytes of JSON. It returns at least one part.
func paged(all []reference.Repository, limit int) [][]reference.Repository {
	parts, size := [][]reference.Repository{nil}, 0
	for _, r := range all {
		bytes := len(`"",`) + len(r.String())
		if size += bytes; size > limit {
			parts, size = append(parts, nil), bytes
		}
		last := &parts[len(parts)-1]
		*last = append(*last, r)
	}
	return parts
}

// readNote returns the note of the last plan of a namespace. If there is none, or if it is damaged, the
// note is zero.
func readNote(ctx context.Context, kv jetstream.KeyValue, key string, n list.Namespace) (namespaceNote, error) {
	for {
		note, err := readHead(ctx, kv, key)
		if err != nil || note.Namespace != n.Namespace.String() {
			return namespaceNote{}, err
		}
		rest, err := readPages(ctx, kv, key, note)
		if err != nil {
			return namespaceNote{}, err
		}
		if rest != nil || note.Pages == 0 {
			note.Repositories = append(note.Repositories, rest...)
			return note, nil
		}
		// Another planner may have replaced the note meanwhile. Then try again.
		if now, err := readHead(ctx, kv, key); err != nil || now.Version == note.Version {
			return namespaceNote{}, err
		}
	}
}

// readHead returns a note without its pages. If there is none, or if the entry is not a note, the note is
// zero.
func readHead(ctx context.Context, kv jetstream.KeyValue, key string) (namespaceNote, error) {
	var note namespaceNote
	entry, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return note, nil
	}
	if err != nil {
		return note, fmt.Errorf("reading the last listing of a namespace: %w", err)
	}
	if json.Unmarshal(entry.Value(), &note) != nil {
		return namespaceNote{}, nil
	}
	return note, nil
}

// readPages returns the repositories in the pages of a note. It returns nil if a page is missing or
// belongs to another note.
func readPages(ctx context.Context, kv jetstream.KeyValue, key string, note namespaceNote) ([]reference.Repository, error) {
	var all []reference.Repository
	for i := range note.Pages {
		entry, err := kv.Get(ctx, note.page(key, i))
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the last listing of a namespace: %w", err)
		}
		var page namespacePage
		if json.Unmarshal(entry.Value(), &page) != nil || page.Version != note.Version {
			return nil, nil
		}
		all = append(all, page.Repositories...)
	}
	return all, nil
}
