package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// The pause between two reads of a status is at least pollInterval. It is at least pollShare times as
// long as the shortest of the last few reads, to spare the broker when a run has 10,000 chunks: others
// may have been slow because the machine is busy. It is at least 1/pollAge of the time since the command
// began to follow the run, because the end of a long run may be seen later. It is at most maxPoll.
const (
	pollInterval = 100 * time.Millisecond
	pollShare    = 20
	pollAge      = 40
	maxPoll      = 2 * time.Second
)

// idlePoll is the least pause if the worker of this process reports the end of its work, and no
// terminal shows the status.
const idlePoll = time.Second

// poll returns a channel that receives when the next read is due. took is the duration of a read, and
// followed the time since the command began to follow the run.
func (se *session) poll(took, followed time.Duration) <-chan time.Time {
	shortest := pollInterval
	if se.drained != nil {
		shortest = idlePoll
	}
	return time.After(min(max(shortest, pollShare*took, followed/pollAge), maxPoll))
}

// follow shows the run until it is over or ctx ends. It returns the error for the outcome of the run.
func (se *session) follow(ctx context.Context, id string, out io.Writer, f formatFlag) error {
	last, err := se.watch(ctx, id, out, f)
	away := (*awayError)(nil)
	if err != nil && !errors.As(err, &away) {
		return err
	}
	// The summary is shown even if ctx has ended.
	ctx = context.WithoutCancel(ctx)
	if !f.json {
		failures, err := se.failures.List(ctx, se.name)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) { // the stream was deleted, with all failures
			return err
		}
		failures = slices.DeleteFunc(failures, func(r failure.Record) bool { return r.Run != last.Run }) // other runs have recorded those
		display.Summary(out, last, failures, time.Now(), display.ScreenOf(out, se.color))
	}
	switch {
	case away != nil:
		return away
	case last.State == run.StateCancelled, last.State == run.StateSuperseded:
		return fmt.Errorf("%w: run %s was %s", errUnfinished, last.Run, last.State)
	case last.State == run.StateLost:
		return fmt.Errorf("%w: run %s has lost %s: plan again, and find out who deleted messages of stream %s at the broker",
			errUnfinished, last.Run, display.Count(last.Chunks.Lost, "chunk", "chunks"), broker.StreamName)
	case last.State == run.StateFailed:
		return errFailed
	}
	return nil
}

// watch shows the run until it is over, as text or as JSON. It returns the last status.
func (se *session) watch(ctx context.Context, id string, out io.Writer, f formatFlag) (run.Status, error) {
	if f.json {
		changes := &lineWriter{out: out}
		return se.each(ctx, id, func(status *run.Status) error {
			if err := se.describe(ctx, status); err != nil {
				return err
			}
			return changes.write(status)
		})
	}
	follower := display.NewFollower(out, se.color)
	defer follower.Done()
	defer se.logs.through(follower.Above)()
	var end estimatedEnd
	return se.each(ctx, id, func(status *run.Status) error {
		if !status.Over() {
			if err := end.add(ctx, se, status); err != nil {
				return err
			}
		}
		follower.Update(*status)
		return nil
	})
}

// each reads the status of the run repeatedly until the run is over, and calls show with it. It returns
// the last status. If a read or show fails, it retries.
func (se *session) each(ctx context.Context, id string, show func(*run.Status) error) (run.Status, error) {
	tracker, err := se.runs.Track(context.WithoutCancel(ctx), se.name, id)
	if err != nil {
		return run.Status{}, err
	}
	known := true
	following := se.budget.Now()
	room := room{at: time.Now()} // the broker has just stored the run, so it has room
	began, took := time.Now(), maxPoll
	for {
		start := time.Now()
		status, err := tracker.Status(ctx)
		if err == nil {
			err = show(&status)
		}
		switch {
		case err == nil:
			if status.Over() {
				return status, nil
			}
			if away := se.away(status, following); away != nil {
				return status, away
			}
			room.look(ctx, se)
		case ctx.Err() == nil && known:
			se.log.Warn("cannot read the status of the run; trying again", "error", err)
		}
		known = err == nil
		took = min(time.Since(start), took+took/4)
		select {
		case <-ctx.Done():
			return run.Status{}, interrupted(ctx, id)
		case <-se.drained:
		case <-se.poll(took, time.Since(began)):
		}
	}
}

// awayError is returned if the rest of a run has waited too long for registries that are away. It wraps
// errUnfinished.
type awayError struct {
	run      string
	outages  []string // which registry is away, since when, and why
	left, of int      // chunks
	next     string   // command or process that continues them
}

func (e *awayError) Error() string {
	return fmt.Sprintf("%v: %s; %d of %s of run %s left: %s", errUnfinished,
		strings.Join(e.outages, "; "), e.left, display.Count(e.of, "chunk", "chunks"), e.run, e.next)
}

func (e *awayError) Unwrap() error { return errUnfinished }

// away returns an awayError if the rest of the run has waited for OUTAGE_TIMEOUT, counted from
// following, the time at which the command began to follow the run.
func (se *session) away(status run.Status, following time.Time) error {
	if se.outage == 0 || len(status.Away) == 0 {
		return nil
	}
	e := &awayError{run: status.Run, left: status.Chunks.Total - status.Chunks.Done, of: status.Chunks.Total, next: "workers continue when it is back"}
	for _, registry := range status.Away {
		outage := se.budget.IsAway(registry)
		if outage == nil {
			return nil // it has just come back
		}
		since := outage.Since
		if since.Before(following) {
			since = following
		}
		if se.budget.Now().Sub(since) < se.outage {
			return nil
		}
		e.outages = append(e.outages, outage.Error())
	}
	return e
}

// estimateInterval is how long an estimate is shown. A new estimate reads every budget at the broker.
const estimateInterval = 5 * time.Second

// estimatedEnd is the last estimate of the end of a run.
type estimatedEnd struct {
	at      time.Time
	done    *time.Time
	atLeast bool
}

// add adds the estimate to the status. If the estimate is old, it makes a new one.
func (e *estimatedEnd) add(ctx context.Context, se *session, status *run.Status) error {
	if time.Since(e.at) >= estimateInterval {
		if err := estimate.Describe(ctx, se.budget, status); err != nil {
			return err
		}
		*e = estimatedEnd{time.Now(), status.EstimatedDone, status.EstimatedAtLeast}
	}
	status.EstimatedDone, status.EstimatedAtLeast = e.done, e.atLeast
	return nil
}

// room is the last check whether the broker has room for messages.
type room struct {
	at   time.Time
	none bool
}

// look logs an error if the broker has no room left, because the run cannot continue then.
func (r *room) look(ctx context.Context, se *session) {
	if time.Since(r.at) < estimateInterval {
		return
	}
	err := se.Writable(ctx)
	none := errors.Is(err, broker.ErrFull)
	if none && !r.none {
		se.log.Error("the run cannot continue", "error", err)
	}
	r.at, r.none = time.Now(), none
}

func interrupted(ctx context.Context, id string) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		cause = errors.New("interrupted")
	}
	return fmt.Errorf("%w: %w; planner status %s shows its progress", errUnfinished, cause, id)
}
