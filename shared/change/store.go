package change

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	// stream holds the changes of the runs that are kept.
	stream = "mirror_changes"
	root   = "changes"

	// maxMessages is how many messages the stream holds; the oldest are removed first. A message
	// has the changes of one transfer, which are mostly those of one tag.
	maxMessages = 500_000
	// perMessage is how many changes a message has at most, so that it stays below some 100 KiB.
	perMessage = 200
	// maxListed is how many changes of a run List returns at most.
	maxListed = 50_000
)

// Store reads and writes changes.
type Store struct{ b *broker.Broker }

// Open returns the store of a broker, and creates its stream if it is missing.
func Open(ctx context.Context, b *broker.Broker) (*Store, error) {
	_, err := b.OpenStream(ctx, jetstream.StreamConfig{
		Name:        stream,
		Description: "skopeo-worker: changes of runs",
		Subjects:    []string{root + ".*.*"},
		Storage:     jetstream.FileStorage,
		MaxAge:      run.Keep,
		MaxMsgs:     maxMessages,
		AllowDirect: true,
	})
	if err != nil {
		return nil, err
	}
	return &Store{b}, nil
}

func subjectOf(name, id string) string { return root + "." + name + "." + id }

// Add records changes of a run.
func (s *Store) Add(ctx context.Context, name, id string, changes ...Change) error {
	for some := range slices.Chunk(changes, perMessage) {
		data, err := json.Marshal(map[string]any{"changes": some})
		if err == nil {
			_, err = s.b.JS.PublishMsg(ctx, &nats.Msg{Subject: subjectOf(name, id), Data: data}, jetstream.WithExpectStream(stream))
		}
		if err != nil {
			return fmt.Errorf("recording changes of run %s: %w", id, s.b.Unstored(ctx, stream, err))
		}
	}
	return nil
}

// place is a tag at its source and destination.
type place struct {
	source, destination reference.Repository
	tag                 reference.Tag
}

// List returns the changes of a run, one for each tag, sorted by image, and the number of changes
// that it leaves out. If a tag was put twice, its change is from the first digest to the last.
func (s *Store) List(ctx context.Context, name, id string) (all []Change, more int, err error) {
	if !run.ValidID(id) {
		return nil, 0, fmt.Errorf("%w: %s", run.ErrNotFound, id)
	}
	found := map[place]*Change{}
	_, err = s.b.Changes(ctx, stream, subjectOf(name, id), 0, func(m *jetstream.RawStreamMsg) error {
		for _, c := range parse(m.Data) {
			at := place{c.Source, c.Destination, c.Tag}
			if known := found[at]; known != nil {
				c.From, c.Bytes, c.Took = known.From, c.Bytes+known.Bytes, c.Took+known.Took
				*known = c
			} else if len(found) < maxListed {
				found[at] = &c
			} else {
				more++
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("listing the changes of run %s: %w", id, err)
	}
	for _, c := range found {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Source.String(), b.Source.String()), cmp.Compare(a.Tag.String(), b.Tag.String()), cmp.Compare(a.Destination.String(), b.Destination.String()))
	})
	return all, more, nil
}
