package change

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	// Stream holds the changes of the runs that are kept.
	Stream = "mirror_changes"
	root   = "changes"

	// maxMessages bounds the stream; the oldest go first. A message has the changes of one
	// transfer, most of the time of one tag.
	maxMessages = 500_000
	// perMessage bounds a message to some 100 KiB.
	perMessage = 200
	// MaxListed bounds the changes of a run that List returns.
	MaxListed = 50_000
)

// Store reads and writes changes.
type Store struct{ b *broker.Broker }

// Open returns the store of a broker, and creates its stream if it is missing.
func Open(ctx context.Context, b *broker.Broker) (*Store, error) {
	s := &Store{b}
	if _, err := s.make(ctx); err != nil {
		return nil, fmt.Errorf("stream %s: %w", Stream, err)
	}
	b.Own(Stream, s.make)
	return s, nil
}

// make creates the stream if it is missing.
func (s *Store) make(ctx context.Context) (made bool, err error) {
	err = broker.Answered(ctx, func() error {
		made = false
		_, err := s.b.JS.Stream(ctx, Stream)
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		_, err = s.b.JS.CreateStream(ctx, jetstream.StreamConfig{
			Name:        Stream,
			Description: "skopeo-worker: what runs have changed",
			Subjects:    []string{root + ".*.*"},
			Storage:     jetstream.FileStorage,
			Replicas:    s.b.Replicas,
			MaxAge:      run.Keep,
			MaxMsgs:     maxMessages,
			AllowDirect: true,
		})
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil
		}
		made = err == nil
		return err
	})
	return made, err
}

func subjectOf(name, id string) string { return root + "." + name + "." + id }

// Add records changes of a run.
func (s *Store) Add(ctx context.Context, name, id string, changes ...Change) error {
	for some := range slices.Chunk(changes, perMessage) {
		data, err := json.Marshal(map[string]any{"changes": some})
		if err == nil {
			_, err = s.b.JS.Publish(ctx, subjectOf(name, id), data, jetstream.WithExpectStream(Stream))
		}
		if err != nil {
			return fmt.Errorf("recording changes of run %s: %w", id, s.b.Unstored(ctx, Stream, err))
		}
	}
	return nil
}

// place is a tag.
type place struct {
	source, destination reference.Repository
	tag                 reference.Tag
}

// List returns the changes of a run, one for each tag, sorted by image, and how many more
// there are than MaxListed. A tag that was put twice has moved once: from what it was first
// to what it was last.
func (s *Store) List(ctx context.Context, name, id string) (all []Change, more int, err error) {
	if !run.ValidID(id) {
		return nil, 0, fmt.Errorf("%w: %s", run.ErrNotFound, id)
	}
	found := map[place]*Change{}
	_, err = s.b.Changes(ctx, Stream, subjectOf(name, id), 0, func(m *jetstream.RawStreamMsg) error {
		for _, c := range parse(m.Data) {
			at := place{c.Source, c.Destination, c.Tag}
			if known := found[at]; known != nil {
				c.From, c.Bytes, c.Took = known.From, c.Bytes+known.Bytes, c.Took+known.Took
				*known = c
			} else if len(found) < MaxListed {
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
