package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/subject"
)

// readers bounds the requests of confirm that are under way at once.
const readers = 16

// workingFor is how long a worker counts as busy with a chunk after it has recorded
// something. It records something every few seconds.
const workingFor = time.Minute

// held returns the chunks that workers are busy with though their messages are gone:
// somebody has deleted them. The workers finish them all the same.
func (t *Tracker) held(messages map[string]subject.Address) (bases []string) {
	for key, p := range t.progress {
		if _, there := messages[key]; !there && p.State == Running && time.Since(p.Updated) < workingFor {
			bases = append(bases, base(key))
		}
	}
	return bases
}

// base is the chunk of a record: its registry and its number.
func base(key string) string {
	registry, token, _ := strings.Cut(key, ".")
	return registry + "." + subject.Address{Token: token}.Number()
}

// count sums up the progress, and returns when it was last made and which chunks seem to
// be lost.
func (t *Tracker) count(present map[string]string, st *Status) (updated time.Time, missing map[string]bool) {
	over := map[string]string{} // chunks that have no message left, with what became of them
	for key, p := range t.progress {
		if chunk := base(key); present[chunk] == "" && worst[p.State] >= worst[over[chunk]] {
			over[chunk] = p.State
		}
		st.Images.add(p.Images)
		st.Pulls += p.Pulls
		st.Bytes += p.Bytes
		if p.Updated.After(updated) {
			updated = p.Updated
		}
	}
	missing = map[string]bool{}
	for chunk, state := range over {
		switch {
		case state == Done:
			st.Chunks.Done++
		case state == Dropped || t.run.Ended != "": // what was dropped and not noted was dropped all the same
			st.Chunks.Dropped++
		default:
			st.Chunks.Lost++
			missing[chunk] = true
		}
	}
	if untold := t.run.Chunks - len(over) - len(present); untold > 0 {
		if t.run.Ended != "" {
			st.Chunks.Dropped += untold
		} else if !t.publishing() {
			st.Chunks.Lost += untold
			missing[""] = true
		}
	}
	return updated, missing
}

// worst orders the last states of a chunk's messages after all of them are gone: the
// worst is the chunk's. One that was running or snoozed has been lost.
var worst = map[string]int{Done: 1, Dropped: 2, Running: 3, Snoozed: 3}

// unsure reports whether the bucket's leader may hold something newer of these chunks
// than is known of them.
func (t *Tracker) unsure(missing map[string]bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, p := range t.progress {
		if !p.Over() && missing[base(key)] && t.sure[key] != t.revision[t.name+"."+t.id+"."+key] {
			return true
		}
	}
	return false
}

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
			t.progress[key], t.revision[own[len(prefix):]+key], t.sure[key] = p, m.Sequence, m.Sequence
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
	return !known.Over() && missing[base(key)]
}
