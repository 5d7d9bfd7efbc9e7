package consume

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/shared/subject"
)

// resolvedBucket holds, for each entry, the newest run that has resolved it.
const resolvedBucket = "mirror_resolved"

// olderFor is how long isOldest remembers that older runs have messages.
const olderFor = 10 * time.Second

// oldestRuns remembers the answers of isOldest, by mirror name.
type oldestRuns struct {
	mu    sync.Mutex
	known map[string]oldestRun
}

// oldestRun is the last answer of isOldest about a mirror name.
type oldestRun struct {
	run    string
	oldest bool
	at     time.Time
}

// isOldest reports whether the stream has no message of an older run of the chunk's mirror name.
// It will have none later, either: a run's chunks are published when it begins, and remainders
// before their chunks are acknowledged. A run whose planner is slow to publish it costs some
// requests.
func (n *Notes) isOldest(ctx context.Context, c message.Chunk) (bool, error) {
	n.oldest.mu.Lock()
	defer n.oldest.mu.Unlock()
	known := n.oldest.known[c.Name]
	if known.run == c.Run && (known.oldest || time.Since(known.at) < olderFor) {
		return known.oldest, nil
	}
	known = oldestRun{run: c.Run, oldest: true, at: time.Now()}
	err := n.retry(ctx, func(ctx context.Context) error {
		info, err := n.broker.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfNameAnywhere(c.Name)))
		if err != nil {
			return fmt.Errorf("looking for older runs of %s: %w", c.Name, err)
		}
		for subj := range info.State.Subjects {
			if a, err := subject.ParseAddress(subj); err == nil && a.Run < c.Run {
				known.oldest = false
			}
		}
		return nil
	})
	if err == nil {
		n.oldest.known[c.Name] = known
	}
	return known.oldest, err
}

// resolvedKey is the key of an entry. Entries with other selections or destinations have other
// keys.
func resolvedKey(name string, r message.Repository) string {
	var chosen selection.Selection
	if r.Selection != nil {
		chosen = *r.Selection
	}
	return name + "." + subject.Hash(fmt.Sprintf("%s\n%s\n%s\n%s\n%s", r.Source, r.Tag, r.Digest, r.Destination, chosen.Hash()))
}

// resolvedBy returns the newest run that has resolved an entry.
func (n *Notes) resolvedBy(ctx context.Context, name string, r message.Repository) (string, error) {
	id, err := n.read(ctx, n.resolved, resolvedKey(name, r))
	if !run.ValidID(id) {
		id = ""
	}
	return id, err
}

// Resolved implements chunk.Notes. It keeps the newer of two runs. Only chunks of older runs read
// the note, so it is not written if there are none.
func (n *Notes) Resolved(ctx context.Context, c message.Chunk, r message.Repository) error {
	if oldest, err := n.isOldest(ctx, c); err != nil || oldest {
		return err
	}
	newest, err := n.resolvedBy(ctx, c.Name, r)
	if err != nil || newest >= c.Run {
		return err
	}
	return n.write(ctx, n.resolved, resolvedKey(c.Name, r), c.Run)
}

// Superseded implements chunk.Notes.
func (n *Notes) Superseded(ctx context.Context, c message.Chunk, r message.Repository) (bool, error) {
	newest, err := n.resolvedBy(ctx, c.Name, r)
	return newest > c.Run, err
}
