package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/subject"
)

// readers bounds the requests of confirm that are under way at once.
const readers = 16

// confirm reads what the bucket's leader holds of the run, and of the chunks that seem to
// be lost. A watch is late, and the replica that it reads from may be behind. The leader
// is not: a worker records that a chunk is done before it acknowledges it.
func (t *Tracker) confirm(ctx context.Context, missing map[string]bool) error {
	e, err := t.store.entry(ctx, t.name, t.id)
	if err != nil && !errors.Is(err, ErrNotFound) { // it has expired, or the bucket was recreated
		return err
	}
	own := prefix + t.name + "." + t.id + "."
	bucket, err := t.store.b.JS.Stream(ctx, stream)
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = bucket.Info(ctx, jetstream.WithSubjectFilter(own+">"))
	}
	if err != nil {
		return fmt.Errorf("reading the progress of run %s: %w", t.id, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	var mu sync.Mutex
	found := map[string]*jetstream.RawStreamMsg{}
	for subj := range info.State.Subjects {
		key := strings.TrimPrefix(subj, own)
		if !t.suspect(key, missing) {
			continue
		}
		group.Go(func() error {
			m, err := t.store.b.Last(ctx, stream, subj)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				found[key] = m
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.ID != "" {
		t.run = e.Run
	}
	for key, m := range found {
		var p Progress
		if json.Unmarshal(m.Data, &p) == nil {
			t.progress[key], t.revision[own[len(prefix):]+key] = p, m.Sequence
		}
	}
	return nil
}

// suspect reports whether the entry can tell that a chunk is not lost.
func (t *Tracker) suspect(key string, missing map[string]bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.progress[key]
	if !ok {
		return true
	}
	registry, token, _ := strings.Cut(key, ".")
	return known.State != Done && missing[registry+"."+subject.Address{Token: token}.Number()]
}
