package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/planner/schedule"
	"github.com/osism/skopeo-worker/planner/web"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/run"
)

// planAgain has the pauses before further attempts if the list or the broker cannot be reached. The
// last pause repeats until the next time of the schedule.
var planAgain = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

// planning plans for planner serve, by the schedule and on request of users.
type planning struct {
	settings *settings
	session  *session
	log      *slog.Logger

	turn sync.Mutex // held while planning

	noted[web.Schedule]
}

// bySchedule plans at the times of the schedule until ctx ends. It plans at once if a time passed
// while no process ran, or if the mirror has never run.
func (p *planning) bySchedule(ctx context.Context, times schedule.Schedule) error {
	next, err := p.first(ctx, times)
	if err != nil {
		return err
	}
	for tries := 0; ; {
		p.note(func(s *web.Schedule) { s.Next = next })
		if err := schedule.Wait(ctx, next); err != nil {
			return nil
		}
		text, err := p.Plan(ctx)
		now := time.Now()
		next = times.Next(now)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			p.log.Info("planned by schedule", "outcome", text, "next", next)
			tries = 0
		case errors.Is(err, list.ErrUnreachable), errors.Is(err, broker.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
			if again := now.Add(planAgain[min(tries, len(planAgain)-1)]); again.Before(next) {
				next = again
			}
			tries++
			fallthrough
		default:
			p.log.Error("the mirror was not planned", "error", err, "next", next)
		}
	}
}

// first returns the first time to plan. A plan of one chunk that somebody else has published does not count.
func (p *planning) first(ctx context.Context, times schedule.Schedule) (time.Time, error) {
	runs, err := p.session.runs.List(ctx, p.session.name)
	if err != nil {
		return time.Time{}, err
	}
	for _, r := range runs {
		if r.Kind == run.KindPlan && r.Published && (!r.Partial || p.settings.job.Number > 0) {
			return times.Next(r.Started), nil
		}
	}
	return time.Now(), nil
}

// next returns when this process plans a mirror next. It returns the zero time if there is no schedule, or
// if this process does not plan that mirror.
func (p *planning) next(mirror string) time.Time {
	if mirror != p.session.name {
		return time.Time{}
	}
	return p.state().Next
}

// settleEvery is how often planner serve looks for runs whose process was killed while it published
// them.
const settleEvery = 15 * time.Second

// settle decides what becomes of runs that were stored before a time, by the broker's clock, and were not
// published completely.
func (p *planning) settle(ctx context.Context, before time.Time) {
	ender := plan.Ender{Broker: p.session.Broker, Runs: p.session.runs, Failures: p.session.failures}
	settled, err := ender.Settle(ctx, p.session.name, before)
	for _, r := range settled {
		p.log.Warn("a run was not published completely", "run", r.ID, "kind", r.Kind, "published_chunks", r.Chunks, "cancelled", r.Ended != "")
	}
	if err != nil && ctx.Err() == nil {
		p.log.Warn("cannot settle runs that were not published completely; trying again", "error", err)
	}
}

// settleOthers settles runs of other processes until ctx ends. It waits until a process can no longer
// be publishing.
func (p *planning) settleOthers(ctx context.Context) error {
	ticker := time.NewTicker(settleEvery)
	defer ticker.Stop()
	for {
		now, err := p.session.Broker.Time(ctx)
		if err == nil {
			// This is earlier than the time at which the run would count as lost.
			p.settle(ctx, now.Add(-run.Publishing+3*settleEvery))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Plan implements web.Actions. If a run of the same plan is not over, it continues, as with planner
// mirror. But if the rest of that run waits for registries that are away, Plan publishes a new one.
func (p *planning) Plan(ctx context.Context) (text string, err error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	defer func() {
		err = p.session.Explain(err)
		p.note(func(s *web.Schedule) {
			s.Tried, s.Error = time.Now(), ""
			if err != nil && ctx.Err() == nil {
				s.Error = err.Error()
			}
		})
	}()
	planned, err := prepare(ctx, p.settings, nil, warner{p.log})
	if err != nil {
		return "", err
	}
	if err := planned.expand(ctx, p.session.Broker, p.settings, warner{p.log}); err != nil {
		return "", err
	}
	r, err := p.session.unfinished(ctx, planned)
	if err != nil {
		return "", err
	}
	if r.ID != "" {
		status, err := p.session.status(ctx, r.ID)
		if err != nil {
			return "", err
		}
		if !status.Over() && len(status.Away) == 0 {
			planned.markLeft(ctx, p.session)
			return fmt.Sprintf("Run %s has the same list and is not over; it continues.", r.ID), nil
		}
	}
	r, err = planned.publish(ctx, p.session, false)
	switch {
	case err != nil:
		return "", err
	case r.Chunks == 0:
		return "Nothing to publish: the plan has no chunk.", nil
	}
	return fmt.Sprintf("Published run %s: %s.", r.ID, extent(r)), nil
}

// warner is a writer for warnings about a list. It logs each line.
type warner struct{ log *slog.Logger }

func (w warner) Write(lines []byte) (int, error) {
	for line := range strings.Lines(string(lines)) {
		w.log.Warn(strings.TrimPrefix(strings.TrimSpace(line), "warning: "))
	}
	return len(lines), nil
}

// of returns a session for another mirror name.
func (p *planning) of(mirror string) *session {
	other := *p.session
	other.name = mirror
	return &other
}

// Republish implements web.Actions.
func (p *planning) Republish(ctx context.Context, mirror string, w web.Republish) (string, error) {
	f := &failureFilter{all: w == web.Republish{}, image: w.Image}
	if w.Repository != "" {
		f.named = map[string]bool{w.Repository: false}
	}
	return said(func(out *bytes.Buffer) error {
		_, err := p.of(mirror).republish(ctx, f, out)
		return err
	})
}

// Cancel implements web.Actions.
func (p *planning) Cancel(ctx context.Context, mirror, id string) (string, error) {
	return said(func(out *bytes.Buffer) error { return p.of(mirror).cancel(ctx, id, out) })
}

// said returns the output of an action as a single line.
func said(do func(*bytes.Buffer) error) (string, error) {
	var out bytes.Buffer
	err := do(&out)
	return strings.Join(strings.Fields(out.String()), " "), err
}
