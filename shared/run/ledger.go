package run

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// Ledger returns the runs of all mirror names. Each call reads only what has changed since the last
// one. It is not safe for concurrent use.
type Ledger struct {
	store    *Store
	runs     map[string]Entry // by key
	read     broker.Cursor
	progress map[string]*progressOf // of unfinished runs, by the key of the run
	before   map[string]*progressOf // the same, before the last List
}

// Entry is a run in the bucket.
type Entry struct {
	Run
	Revision uint64    // of the entry; each change of the run gives it a new one
	Stored   time.Time // when this revision was stored, by the broker's clock
}

func (e Entry) key() string { return e.Name + "." + e.ID }

// progressOf is the progress of a run's messages.
type progressOf struct {
	last     uint64
	messages map[string]Progress // by key
}

// Ledger returns an empty ledger.
func (s *Store) Ledger() *Ledger {
	return &Ledger{store: s, runs: map[string]Entry{}}
}

// List returns the runs of the last 30 days by mirror name, the newest first, without plans that
// could not be published. It forgets the progress of runs whose Status was not called since the
// last List.
func (l *Ledger) List(ctx context.Context) (map[string][]Entry, error) {
	l.before, l.progress = l.progress, map[string]*progressOf{}
	replaced, err := l.store.b.Replaced(ctx, stream, &l.read)
	if err != nil {
		return nil, err
	}
	if replaced {
		l.runs, l.before = map[string]Entry{}, nil
	}
	l.read.After, err = l.store.b.Entries(ctx, Bucket, "*.*", l.read.After, func(e jetstream.KeyValueEntry) {
		if r, ok := parse(e); ok {
			l.runs[e.Key()] = Entry{Run: r, Revision: e.Revision(), Stored: e.Created()}
		} else {
			delete(l.runs, e.Key())
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
		if e.takenBack() {
			continue
		}
		byName[e.Name] = append(byName[e.Name], e)
	}
	for _, runs := range byName {
		slices.SortFunc(runs, func(a, b Entry) int { return strings.Compare(b.ID, a.ID) })
	}
	return byName, nil
}

// Status returns the state of a run, and whether it is final, that is, will not change any more.
// While the run is not over, its chunks are not counted.
func (l *Ledger) Status(ctx context.Context, e Entry) (st Status, final bool, err error) {
	left, err := l.store.b.Count(ctx, subject.OfRun(e.Name, e.ID))
	if err != nil {
		return st, false, err
	}
	if left == 0 {
		t, err := l.store.Track(ctx, e.Name, e.ID)
		if err != nil {
			return st, false, err
		}
		st, err = t.Status(ctx)
		// Lost chunks come back if an operator restores the stream.
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
	st = Status{Name: e.Name, Run: e.ID, Started: e.Started, Registries: []Registry{}, UnderWay: []Copy{}, State: StateSnoozed, Partial: e.Partial, Warnings: e.Warnings, FailedNamespaces: e.FailedNamespaces}
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

// keepUnpublished is how long after its start a plan may be marked as published.
const keepUnpublished = time.Hour

// update reads the progress of the run's messages since the last time.
func (l *Ledger) update(ctx context.Context, e Entry) (p *progressOf, err error) {
	if p = l.before[e.key()]; p == nil {
		p = &progressOf{messages: map[string]Progress{}}
	}
	l.progress[e.key()] = p
	p.last, err = l.store.b.Entries(ctx, Bucket, e.key()+".>", p.last, func(e jetstream.KeyValueEntry) {
		if m, ok := parseProgress(e.Value()); ok {
			p.messages[e.Key()] = m
		}
	})
	return p, err
}
