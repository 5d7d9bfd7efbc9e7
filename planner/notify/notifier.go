package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	// interval is the time between two looks for events.
	interval = 15 * time.Second
	// keep is for how long after an event its notifications are sent.
	keep = 24 * time.Hour
	// closedFor is how long a registry must be closed to be an event.
	closedFor = time.Hour
	// recentRuns is how many runs of a mirror are checked.
	recentRuns = 10
	// firstPause and longestPause bound the pause between two tries of a message.
	firstPause, longestPause = time.Minute, time.Hour
)

// Notifier looks for events and sends a notification for each.
type Notifier struct {
	config   Config
	store    store
	overview *overview.Reader
	failures *failure.Store
	changes  *change.Store
	next     func(mirror string) time.Time // see New
	log      *slog.Logger
	now      func() time.Time

	mu       sync.Mutex
	problems []string
}

// New returns a notifier that stores events at a broker. next returns when a mirror is planned next, or the
// zero time if it has no schedule, or if another process plans it.
func New(ctx context.Context, c Config, b *broker.Broker, look *overview.Reader, failures *failure.Store, changes *change.Store, next func(mirror string) time.Time, log *slog.Logger) (*Notifier, error) {
	s, err := openStore(ctx, b)
	if err != nil {
		return nil, err
	}
	return &Notifier{config: c, store: s, overview: look, failures: failures, changes: changes, next: next, log: log, now: time.Now}, nil
}

// Problems describes the notifications that could not be sent and will be retried.
func (n *Notifier) Problems() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.problems)
}

// Run looks for events until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := n.look(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("cannot look for events for notifications", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look stores new events and sends the notifications that are due.
func (n *Notifier) look(ctx context.Context) error {
	if len(n.config.receivers) == 0 {
		return nil
	}
	o, err := n.overview.Now(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range o.Mirrors {
		errs = append(errs, n.ended(ctx, m.Name), n.mirror(ctx, m))
	}
	errs = append(errs, n.registries(ctx, o.Registries), n.deliver(ctx))
	return errors.Join(errs...)
}

// ended stores an event for each run that has ended recently, the oldest first.
func (n *Notifier) ended(ctx context.Context, mirror string) error {
	runs, _, err := n.overview.Runs(ctx, mirror, 0, recentRuns)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(runs) {
		over := r.Status.State == run.StateDone || r.Status.State == run.StateFailed
		if !over || r.Status.Finished == nil || n.now().Sub(*r.Status.Finished) > keep {
			continue
		}
		if err := n.runEnded(ctx, mirror, r); err != nil {
			return err
		}
	}
	return nil
}

func (n *Notifier) runEnded(ctx context.Context, mirror string, r overview.Run) error {
	key := "run." + mirror + "." + r.ID
	if known, err := n.store.has(ctx, key); err != nil || known {
		return err
	}
	failing, err := n.failing(ctx, mirror)
	if err != nil {
		return err
	}
	earlier, err := n.store.list(ctx, "run."+mirror+".")
	if err != nil {
		return err
	}
	var before failed
	if len(earlier) > 0 {
		before = earlier[len(earlier)-1].failed
	}
	changes, _, err := n.changes.List(ctx, mirror, r.ID)
	if err != nil {
		return err
	}
	var vanished []string
	var kept []change.Change
	for _, c := range changes {
		if c.Kind() == change.Vanished {
			vanished = append(vanished, c.Image())
		}
		if c.Kind() == change.Kept {
			kept = append(kept, c)
		}
	}
	e := stored{event: ended(mirror, r, failing, before, vanished), failed: newFailed(failing)}
	e.Silent = e.Kind == kindDone && n.config.On != onAlways
	if len(kept) > 0 { // the key makes one event of the same moves in several runs
		about := moved(mirror, r.ID, kept, *r.Status.Finished)
		if err := n.store.create(ctx, "moved."+mirror+"."+hash(strings.Join(about.Moved, " ")), stored{event: about}); err != nil {
			return err
		}
	}
	return n.store.create(ctx, key, e)
}

// failing returns the failed images of the list, sorted.
func (n *Notifier) failing(ctx context.Context, mirror string) ([]string, error) {
	records, err := n.failures.List(ctx, mirror)
	if err != nil {
		return nil, err
	}
	failing := []string{}
	for _, r := range records {
		for _, i := range r.Images {
			if i.LeftList.IsZero() && !r.Unreadable {
				failing = append(failing, i.Source)
			}
		}
	}
	slices.Sort(failing)
	return slices.Compact(failing), nil
}

// mirror stores events about the state of a mirror.
func (n *Notifier) mirror(ctx context.Context, m overview.Mirror) error {
	var errs []error
	add := func(key string, e event) {
		e.Version, e.Mirror, e.At = eventVersion, m.Name, n.now().UTC()
		errs = append(errs, n.store.create(ctx, key, stored{event: e}))
	}
	if m.Last != nil && m.Last.State == run.StateLost {
		add("lost."+m.Name+"."+m.Last.Run, event{
			Kind: kindLost, Run: m.Last.Run, Title: "Mirror " + m.Name + " has lost chunks",
			Text: fmt.Sprintf("%d chunks of run %s are neither done nor at the broker. Plan again, and find out who deleted messages at the broker.", m.Last.Chunks.Lost, m.Last.Run),
		})
	}
	if m.Stale {
		key, text := "never", "No complete run is kept."
		if m.Complete != nil {
			key, text = m.Complete.UTC().Format("20060102150405"), "The last complete run ended at "+m.Complete.UTC().Format(time.RFC1123)+"."
		}
		add("stale."+m.Name+"."+key, event{Kind: kindStale, Title: "Mirror " + m.Name + " is stale", Text: text})
	}
	next := n.next(m.Name)
	for _, status := range m.Current {
		for _, r := range status.Registries {
			if next.IsZero() || r.EstimatedDone == nil || !r.EstimatedDone.After(next) || r.ToPull == 0 {
				continue
			}
			add("budget."+m.Name+"."+status.Run+"."+hash(r.Registry), event{
				Kind: kindBudget, Run: status.Run, Registry: r.Registry, Title: "Mirror " + m.Name + ": the budget of " + r.Registry + " does not suffice",
				Text: fmt.Sprintf("Run %s has about %d manifests left to pull from %s. With its budget (%d per %s), that takes until %s; the next plan is due at %s.",
					status.Run, r.ToPull, r.Registry, r.Limit, r.Window, r.EstimatedDone.UTC().Format(time.RFC1123), next.UTC().Format(time.RFC1123)),
			})
		}
	}
	return errors.Join(errs...)
}

// registries stores an event for each registry that has been closed for an hour.
func (n *Notifier) registries(ctx context.Context, all []run.Registry) error {
	var errs []error
	now := n.now()
	for _, r := range all {
		var since time.Time
		switch {
		case r.ClosedSince != nil:
			since = *r.ClosedSince
		case r.RefusedSince != nil && r.ClosedUntil != nil && r.ClosedUntil.After(now):
			since = *r.RefusedSince
		default:
			continue
		}
		if now.Sub(since) < closedFor {
			continue
		}
		errs = append(errs, n.store.create(ctx, "closed."+hash(r.Registry)+"."+since.UTC().Format("20060102150405"), stored{event: event{
			Version: eventVersion, Kind: kindClosed, Registry: r.Registry, At: now.UTC(), Title: r.Registry + " is closed",
			Text: fmt.Sprintf("%s has been closed since %s: %s", r.Registry, since.UTC().Format(time.RFC1123), strings.TrimSuffix(r.Reason, ".")+"."),
		}}))
	}
	return errors.Join(errs...)
}

// deliver sends each event to the receivers that have not received it yet.
func (n *Notifier) deliver(ctx context.Context) error {
	events, err := n.store.list(ctx, "")
	if err != nil {
		return err
	}
	var errs []error
	var problems []string
	for _, e := range events {
		if e.Silent || n.now().Sub(e.At) > keep {
			continue
		}
		for _, r := range n.config.receivers {
			d, err := n.send(ctx, e, r)
			errs = append(errs, err)
			if d.Error != "" && !d.Sent {
				problems = append(problems, fmt.Sprintf("%s: %s (%s)", d.Service, d.Error, e.Title))
			}
		}
	}
	n.mu.Lock()
	n.problems = problems
	n.mu.Unlock()
	return errors.Join(errs...)
}

// send sends an event to a receiver, unless it was sent already or another process is sending it.
func (n *Notifier) send(ctx context.Context, e keyed, r receiver) (delivery, error) {
	d, revision, err := n.store.claim(ctx, e.key, r, n.now())
	if errors.Is(err, errTaken) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	clean := e.event
	clean.ID = hash(e.key)
	clean.Title, clean.Text = redact.Text(clean.Title), redact.Text(clean.Text)
	if err := r.send(clean); err != nil {
		d.Error = redact.Text(err.Error())
		d.Until = n.now().Add(min(firstPause<<min(d.Tries-1, 10), longestPause))
		n.log.Warn("a notification was not sent; trying again", "service", r.service, "event", e.Kind, "error", d.Error)
	} else {
		d.Sent, d.Error = true, ""
		n.log.Info("sent a notification", "service", r.service, "event", e.Kind, "mirror", e.Mirror, "run", e.Run)
	}
	// The delivery is recorded even if ctx ends, so that no process repeats it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lease)
	defer cancel()
	return d, n.store.settle(ctx, e.key, r, d, revision)
}

// SendTest sends a test message to each receiver, and calls report with each result.
func (c *Config) SendTest(report func(service string, err error)) {
	e := event{Version: eventVersion, Kind: kindTest, Title: "skopeo-worker: a test", Text: "Notifications arrive here.", At: time.Now().UTC()}
	for _, r := range c.receivers {
		report(r.service, r.send(e))
	}
}
