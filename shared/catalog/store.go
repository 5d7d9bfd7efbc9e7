package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// bucket holds the records. A record expires as long after its last write as a run does.
const bucket = "mirror_catalog"

// writes is how many writes of a plan run at the same time.
const writes = 32

// Store reads and writes records. It is safe for concurrent use.
type Store struct {
	b  *broker.Broker
	kv jetstream.KeyValue

	mu     sync.Mutex
	known  map[string]Repository // by key
	looked map[string]time.Time  // by key
	read   broker.Cursor

	found *lru.Cache[string, found] // by key
}

// found is a record that was read; zero if there was none. get and Add need not read it again.
type found struct {
	repository Repository
	revision   uint64
	written    time.Time // by the broker's clock
	read       time.Time
	fetched    bool // Fetch has read it, and get has not returned it yet
}

// foundFor is how long a record that was read is current.
const foundFor = time.Minute

// maxFound is how many records are held between their reading and Add. Each has up to 400 KiB.
const maxFound = 64

// Open returns the store of a broker, and creates its bucket if it is missing.
func Open(ctx context.Context, b *broker.Broker) (*Store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "skopeo-worker: repositories as last seen", TTL: run.Keep,
	})
	if err != nil {
		return nil, err
	}
	between, _ := lru.New[string, found](maxFound) // the only error is that of a size below 1
	return &Store{b: b, kv: kv, known: map[string]Repository{}, looked: map[string]time.Time{}, found: between}, nil
}

func key(name string, source reference.Repository) string {
	return name + "." + subject.Hash(source.String())
}

// addOne records an observation of a repository under a mirror name.
func (s *Store) addOne(ctx context.Context, name string, seen Repository) error {
	k := key(name, seen.Source)
	last, ok := s.found.Peek(k)
	s.found.Remove(k)
	if ok {
		if added, err := s.addTo(ctx, k, last, seen); added || err != nil {
			return err
		}
	}
	_, err := broker.Update(ctx, s.kv, k, func(last jetstream.KeyValueEntry) ([]byte, error) {
		var r Repository
		if last != nil {
			r, _ = parse(last.Value())
		}
		r.merge(seen)
		return json.Marshal(r)
	})
	if err != nil {
		return fmt.Errorf("recording the tags of %s: %w", seen.Source, err)
	}
	return nil
}

// addTo is addOne for a record that was read before. It returns false if another process has changed the
// record since.
func (s *Store) addTo(ctx context.Context, k string, last found, seen Repository) (bool, error) {
	r := last.repository
	r.Tags = slices.Clone(r.Tags)
	r.merge(seen)
	data, err := json.Marshal(r)
	if err == nil {
		_, err = s.kv.Update(ctx, k, data, last.revision)
	}
	switch {
	case errors.Is(err, broker.ErrConflict):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("recording the tags of %s: %w", seen.Source, err)
	}
	return true, nil
}

// Add records repositories under a mirror name as a delivery has seen them. For those that have not changed, it
// writes one look instead of their records. If the process is killed before that, their times stay
// old.
func (s *Store) Add(ctx context.Context, name string, all ...Repository) error {
	of := look{Key: lookKey(name, all)}
	for part := range slices.Chunk(all, maxFound) {
		var unread []reference.Repository
		for _, seen := range part {
			if last, ok := s.found.Peek(key(name, seen.Source)); !ok || time.Since(last.read) > foundFor {
				unread = append(unread, seen.Source)
			}
		}
		if err := s.Fetch(ctx, name, unread); err != nil {
			return err
		}
		for _, seen := range part {
			k := key(name, seen.Source)
			last, ok := s.found.Peek(k)
			if ok && time.Since(last.written) < rewriteAfter && last.repository.isConfirmedBy(seen) {
				s.found.Remove(k)
				of.add(k, seen.Checked)
			} else if err := s.addOne(ctx, name, seen); err != nil {
				return err
			}
		}
	}
	if len(of.Of) == 0 {
		return nil
	}
	data, err := json.Marshal(of)
	if err == nil {
		_, err = s.kv.Put(ctx, of.Key, data)
	}
	if err != nil {
		return fmt.Errorf("recording a look at %d repositories: %w", len(of.Of), err)
	}
	return nil
}

// Plan records repositories of the list that have no record yet.
func (s *Store) Plan(ctx context.Context, name string, planned []Repository) error {
	stream, err := s.b.JS.Stream(ctx, "KV_"+bucket)
	if err != nil {
		return fmt.Errorf("recording the repositories of %s: %w", name, err)
	}
	prefix := "$KV." + bucket + "."
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+name+".*"))
	if err != nil {
		return fmt.Errorf("recording the repositories of %s: %w", name, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writes)
	begun := map[string]bool{}
	for _, r := range planned {
		k := key(name, r.Source)
		if begun[k] || info.State.Subjects[prefix+k] > 0 {
			continue
		}
		begun[k] = true
		group.Go(func() error {
			data, err := json.Marshal(r)
			if err != nil {
				return err
			}
			_, err = s.kv.Create(ctx, k, data)
			if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
				return fmt.Errorf("recording %s: %w", r.Source, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// Vanished returns the tags of a repository that were seen at the source earlier and that it does not
// list now, without those that are recorded as vanished.
func (s *Store) Vanished(ctx context.Context, name string, source reference.Repository, listed []reference.Tag) ([]reference.Tag, error) {
	r, err := s.get(ctx, name, source)
	return r.vanished(listed), err
}

// Tags returns the recorded tags of a repository.
func (s *Store) Tags(ctx context.Context, name string, source reference.Repository) ([]Tag, error) {
	r, err := s.get(ctx, name, source)
	return r.Tags, err
}

// Fetch reads the records of several repositories with few requests. The next call of Vanished or Tags
// for one of them uses the record that Fetch has read.
func (s *Store) Fetch(ctx context.Context, name string, sources []reference.Repository) error {
	keys := make([]string, len(sources))
	for i, source := range sources {
		keys[i] = key(name, source)
	}
	for part := range slices.Chunk(keys, maxFound) {
		values, err := s.b.Values(ctx, bucket, part)
		if err != nil {
			return fmt.Errorf("reading the catalog of repositories: %w", err)
		}
		for _, k := range part {
			f := found{read: time.Now(), fetched: true}
			if e := values[k]; e != nil {
				f.repository, _ = parse(e.Value())
				f.revision, f.written = e.Revision(), e.Created()
			}
			s.found.Add(k, f)
		}
	}
	return nil
}

// get returns the record of a repository; a zero Repository if there is none.
func (s *Store) get(ctx context.Context, name string, source reference.Repository) (Repository, error) {
	k := key(name, source)
	if last, ok := s.found.Peek(k); ok && last.fetched && time.Since(last.read) < foundFor {
		last.fetched = false
		s.found.Add(k, last)
		return last.repository, nil
	}
	entry, err := s.kv.Get(ctx, k)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Repository{}, nil
	}
	if err != nil {
		return Repository{}, fmt.Errorf("reading the tags of %s: %w", source, err)
	}
	r, _ := parse(entry.Value())
	s.found.Add(k, found{repository: r, revision: entry.Revision(), written: entry.Created(), read: time.Now()})
	return r, nil
}

// List returns the repositories of a mirror name, sorted by name. It reads only what has changed since
// the last call.
func (s *Store) List(ctx context.Context, name string) ([]Repository, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	replaced, err := s.b.Replaced(ctx, "KV_"+bucket, &s.read)
	if err != nil {
		return nil, fmt.Errorf("listing the repositories of %s: %w", name, err)
	}
	if replaced {
		s.known, s.looked = map[string]Repository{}, map[string]time.Time{}
	}
	last, err := s.b.Entries(ctx, bucket, "*.*", s.read.After, func(e jetstream.KeyValueEntry) {
		if l, ok := parseLook(e); ok {
			for _, k := range l.Of {
				if l.At.After(s.looked[k]) {
					s.looked[k] = l.At
				}
			}
			return
		}
		if r, ok := parse(e.Value()); ok && e.Operation() == jetstream.KeyValuePut {
			s.known[e.Key()] = r
		} else {
			delete(s.known, e.Key())
			delete(s.looked, e.Key())
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the repositories of %s: %w", name, err)
	}
	s.read.After = last
	var all []Repository
	for k, r := range s.known {
		r = r.lookedAt(s.looked[k])
		switch of, _, _ := strings.Cut(k, "."); {
		case time.Since(r.Checked) > run.Keep && time.Since(r.Planned) > run.Keep:
			delete(s.known, k) // it has expired at the broker
			delete(s.looked, k)
		case of == name:
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Repository) int { return strings.Compare(a.Source.String(), b.Source.String()) })
	return all, nil
}
