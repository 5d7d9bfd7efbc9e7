package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/web"
	"github.com/osism/skopeo-worker/worker/prune"
)

// confirmedAgain is how often planner serve looks for a confirmed plan whose process was killed.
const confirmedAgain = 15 * time.Second

// pruning makes prune plans for planner serve, and executes those that users confirm.
type pruning struct {
	settings *settings
	session  *session
	store    *prune.Store
	log      *slog.Logger

	asked     chan pruneRequest
	confirmed chan struct{}

	noted[web.PruneSurvey] // progress of the plan that is being made
}

// pruneRequest is a user's request for a plan.
type pruneRequest struct {
	flags pruneFlags
	by    string
}

func newPruning(ctx context.Context, s *settings, se *session, log *slog.Logger) (*pruning, error) {
	store, err := prune.OpenStore(ctx, se.Broker)
	if err != nil {
		return nil, err
	}
	return &pruning{settings: s, session: se, store: store, log: log, asked: make(chan pruneRequest, 1), confirmed: make(chan struct{}, 1)}, nil
}

// run makes and executes plans, one at a time, until ctx ends. It also executes a plan that was
// confirmed before this process started.
func (p *pruning) run(ctx context.Context) error {
	ticker := time.NewTicker(confirmedAgain)
	defer ticker.Stop()
	for {
		if err := p.execute(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("the confirmed prune plan is not executed yet; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-p.confirmed:
		case request := <-p.asked:
			p.make(ctx, request)
		}
	}
}

// Survey implements web.Pruning.
func (p *pruning) Survey(ctx context.Context, terms web.PruneTerms, by string) (string, error) {
	request := pruneRequest{flags: defaultPrune(), by: by}
	request.flags.settings = *p.settings
	for _, value := range []struct {
		name, text string
		set        func(string) error
	}{
		{"grace", terms.Grace, request.flags.grace.Set},
		{"max", terms.Max, shareFlag{&request.flags.caps.All}.Set},
		{"max_per_repository", terms.PerRepository, shareFlag{&request.flags.caps.PerRepository}.Set},
	} {
		if value.text == "" {
			continue
		}
		if err := value.set(strings.TrimSpace(value.text)); err != nil {
			return "", fmt.Errorf("%w: %s: %w", web.ErrTerms, value.name, err)
		}
	}
	request.flags.keep, request.flags.leftList = terms.Keep, terms.LeftList
	if _, err := request.flags.matcher(); err != nil {
		return "", fmt.Errorf("%w: %w", web.ErrTerms, err)
	}
	st, err := p.store.State(ctx, p.session.name)
	if err != nil {
		return "", err
	}
	if st.Review != nil && st.Review.UnderWay() {
		return "", fmt.Errorf("%w: one is being executed", prune.ErrStale)
	}
	free := false
	p.note(func(at *web.PruneSurvey) {
		if free = at.Since.IsZero(); free {
			*at = web.PruneSurvey{Since: time.Now(), By: by}
		}
	})
	if !free {
		return "", fmt.Errorf("%w: a plan is being made already", prune.ErrStale)
	}
	p.asked <- request // there is room: Since was zero, so run has taken the last request
	return "A prune plan is being made.", nil
}

// make makes a plan and stores it for review.
func (p *pruning) make(ctx context.Context, request pruneRequest) {
	plan, err := request.flags.plan(ctx, p.session, nil, warner{p.log}, func(done, all int) {
		p.note(func(at *web.PruneSurvey) { at.Done, at.Repositories = done, all })
	})
	if err == nil {
		err = p.store.Propose(ctx, plan, prune.Terms{Caps: request.flags.caps, Keep: request.flags.keep, LeftList: request.flags.leftList}, request.by)
	}
	p.note(func(at *web.PruneSurvey) {
		*at = web.PruneSurvey{}
		if err != nil && ctx.Err() == nil {
			at.Failed, at.Error = time.Now(), p.session.Explain(err).Error()
		}
	})
	if err != nil {
		p.log.Warn("no prune plan was made", "by", request.by, "error", err)
		return
	}
	p.log.Info("a prune plan was made", "plan", plan.ID(), "by", request.by, "tags", plan.Tags, "repositories", len(plan.Repositories))
}

// Execute implements web.Pruning.
func (p *pruning) Execute(ctx context.Context, plan string, tags int, by string) (string, error) {
	if err := p.store.Confirm(ctx, p.session.name, plan, tags, by); err != nil {
		return "", err
	}
	select {
	case p.confirmed <- struct{}{}:
	default: // run will look for it anyway
	}
	return fmt.Sprintf("%s being deleted.", display.Count(tags, "tag is", "tags are")), nil
}

// execute executes the confirmed plan, if there is one. It returns only errors that a retry may avoid.
func (p *pruning) execute(ctx context.Context) error {
	st, err := p.store.State(ctx, p.session.name)
	if err != nil || st.Review == nil || !st.Review.UnderWay() {
		return err
	}
	r := st.Review
	plan, err := p.store.Proposed(ctx, p.session.name, r)
	if err == nil {
		err = p.carryOut(ctx, plan, r)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, prune.ErrTaken) {
		return err
	}
	p.log.Error("a prune plan was not executed completely", "plan", r.Plan, "by", r.ConfirmedBy, "error", err)
	return p.store.End(ctx, p.session.name, r.Plan, p.session.Explain(err))
}

func (p *pruning) carryOut(ctx context.Context, plan prune.Plan, r *prune.Review) error {
	flags := defaultPrune()
	flags.settings = *p.settings
	flags.keep, flags.leftList = r.Keep, r.LeftList
	if err := flags.grace.Set(plan.Grace); err != nil {
		return fmt.Errorf("%w: grace: %w", prune.ErrPlan, err)
	}
	s, err := flags.survey(ctx, p.session, nil, warner{p.log})
	if err != nil {
		return err
	}
	defer s.close()
	if plan.Destination != s.Destination {
		return fmt.Errorf("%w: the plan is for MIRROR_DEST_URL=%s", errUsage, plan.Destination)
	}
	done, err := s.execute(ctx, plan, r.ConfirmedBy, func(other prune.Holder) {
		p.log.Info("waiting for another process that executes a prune plan, or was killed just now", "by", other.By, "plan", other.Plan)
	}, func() (bool, error) {
		st, err := p.store.State(ctx, p.session.name)
		return st.Review != nil && st.Review.Plan == r.Plan && st.Review.UnderWay(), err
	})
	if err == nil {
		p.log.Info("executed a prune plan", "plan", r.Plan, "by", r.ConfirmedBy, "deleted", done.Deleted, "skipped", done.Skipped, "gone", done.Gone, "manifests", done.Manifests)
	}
	return err
}
