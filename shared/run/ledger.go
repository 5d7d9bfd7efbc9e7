package run

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/subject"
)

// Ledger knows the runs of all mirror names. It asks the broker only for what has
// changed since it was last asked itself, however many chunks a run has. It is not
// safe for concurrent use.
type Ledger struct {
	store    *Store
	runs     map[string]Entry // by key
	last     uint64
	progress map[string]*progressOf // of unfinished runs, by the key of the run
	before   map[string]*progressOf // the same, of before the last List
}

// Entry is a run as it stands in the bucket.
type Entry struct {
	Run
	Revision uint64 // of the entry; every change of it makes another one
}

func (e Entry) key() string { return e.Name + "." + e.ID }

// progressOf is what the messages of a run have recorded.
type progressOf struct {
	last     uint64
	messages map[string]Progress // by key
}

// Ledger returns one that knows nothing yet.
func (s *Store) Ledger() *Ledger {
	return &Ledger{store: s, runs: map[string]Entry{}}
}

// List returns the runs by mirror name, the newest first, of the time that runs are
// kept. What is known of runs that nobody asks for between two calls is forgotten.
func (l *Ledger) List(ctx context.Context) (map[string][]Entry, error) {
	l.before, l.progress = l.progress, map[string]*progressOf{}
	var err error
	l.last, err = l.store.changes(ctx, "*.*", l.last, func(key string, revision uint64, data []byte) {
		if r, ok := parse(key, data); ok {
			l.runs[key] = Entry{Run: r, Revision: revision}
		} else {
			delete(l.runs, key)
		}
	})
	if err != nil {
		return nil, err
	}
	byName := map[string][]Entry{}
	for key, e := range l.runs {
		if time.Since(e.Started) > Keep {
			delete(l.runs, key)
			continue
		}
		byName[e.Name] = append(byName[e.Name], e)
	}
	for _, runs := range byName {
		slices.SortFunc(runs, func(a, b Entry) int { return strings.Compare(b.ID, a.ID) })
	}
	return byName, nil
}

// Status tells how a run stands, and whether that is its last word: no chunk of it is
// left, and nothing will change any more. Of a run that is not over, the chunks are
// not counted.
func (l *Ledger) Status(ctx context.Context, e Entry) (st Status, final bool, err error) {
	left, err := l.store.b.Count(ctx, subject.OfRun(e.Name, e.ID))
	if err != nil {
		return st, false, err
	}
	if left == 0 {
		st, err = l.store.status(ctx, e)
		// Lost chunks come back if somebody restores the stream.
		final = err == nil && st.Over() && st.State != StateLost && (e.Published || time.Since(e.Started) > keepUnpublished)
		return st, final, err
	}
	snoozed, err := l.store.b.Count(ctx, subject.OfRunUnder(subject.Later, e.Name, e.ID))
	if err != nil {
		return st, false, err
	}
	p, err := l.update(ctx, e)
	if err != nil {
		return st, false, err
	}
	st = Status{Name: e.Name, Run: e.ID, Started: e.Started, Registries: []Registry{}, UnderWay: []Copy{}, State: StateSnoozed}
	if left > snoozed {
		st.State = StateWaiting
	}
	for _, m := range p.messages {
		if m.State == Running && left > snoozed {
			st.State = StateRunning
		}
		st.Images.add(m.Images)
		st.Pulls += m.Pulls
		st.Bytes += m.Bytes
	}
	if e.Ended != "" {
		st.State = e.Ended
	}
	return st, false, nil
}

// keepUnpublished is when a plan counts as never published whose planner has not said
// that it was.
const keepUnpublished = time.Hour

// status is what a tracker says, once.
func (s *Store) status(ctx context.Context, e Entry) (Status, error) {
	t, err := s.Track(ctx, e.Name, e.ID)
	if err != nil {
		return Status{}, err
	}
	defer t.Stop()
	return t.Status(ctx)
}

// update reads what the run's messages have recorded since the last time.
func (l *Ledger) update(ctx context.Context, e Entry) (p *progressOf, err error) {
	if p = l.before[e.key()]; p == nil {
		p = &progressOf{messages: map[string]Progress{}}
	}
	l.progress[e.key()] = p
	p.last, err = l.store.changes(ctx, e.key()+".>", p.last, func(key string, _ uint64, data []byte) {
		if m, ok := parseProgress(data); ok {
			p.messages[key] = m
		}
	})
	return p, err
}

// changes calls see with each entry of the bucket that was put after the revision,
// and returns that of the last one.
func (s *Store) changes(ctx context.Context, keys string, after uint64, see func(key string, revision uint64, data []byte)) (uint64, error) {
	return s.b.Changes(ctx, stream, prefix+keys, after, func(m *jetstream.RawStreamMsg) error {
		see(strings.TrimPrefix(m.Subject, prefix), m.Sequence, m.Data)
		return nil
	})
}
