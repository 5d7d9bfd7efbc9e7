package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/osism/skopeo-worker/worker/prune"
)

// pruneRows is how many tags a page of a plan lists.
const pruneRows = 200

// Pruning makes and executes prune plans in the background. Each method returns a sentence about what
// it has started.
type Pruning interface {
	// Survey starts to make a plan. It returns ErrTerms for invalid terms.
	Survey(ctx context.Context, terms PruneTerms, by string) (string, error)
	// Execute confirms a plan by the number of its tags, as prune.Store.Confirm does.
	Execute(ctx context.Context, plan string, tags int, by string) (string, error)
}

// ErrTerms is returned for an invalid grace period, cap or regular expression.
var ErrTerms = errors.New("no plan is made")

// PruneTerms are the options of planner prune. The defaults of the command replace empty ones.
type PruneTerms struct {
	Grace, Max, PerRepository string
	Keep                      []string // regular expressions of tags that are never deleted
	LeftList                  bool     // also delete tags that their entries kept before they left the list
}

// PruneSurvey is the progress of making a plan.
type PruneSurvey struct {
	Since        time.Time `json:"since,omitzero"` // zero: no plan is being made
	By           string    `json:"by,omitempty"`
	Done         int       `json:"done"`
	Repositories int       `json:"repositories"`
	// Failed is when making the last plan failed, and Error why. Failed is zero if it succeeded.
	Failed time.Time `json:"failed,omitzero"`
	Error  string    `json:"error,omitempty"`
}

// pruningView is the page Pruning.
type pruningView struct {
	prune.State
	Survey PruneSurvey
	Terms  PruneTerms // defaults of the form
	Plan   *prune.Plan
	Done   int  // repositories of the plan that are finished
	Stays  bool // lists the tags that stay, not those to delete
	Rows   []pruneRow
	Left   []prune.Left
	paging
}

// pruneRow is a tag of a plan, or the repository of the tags that follow.
type pruneRow struct {
	Repository *prune.Repository
	Tag        prune.Tag
}

// Bytes returns how much the tags of the repository free.
func (r pruneRow) Bytes() (bytes int64) {
	for _, t := range r.Repository.Tags {
		bytes += t.Bytes
	}
	return bytes
}

// UnderWay reports whether the plan is being executed.
func (v pruningView) UnderWay() bool { return v.Review != nil && v.Review.UnderWay() }

// Busy reports whether a plan is being made or executed.
func (v pruningView) Busy() bool { return v.UnderWay() || !v.Survey.Since.IsZero() }

// Share returns a number as a percentage of another one.
func (pruningView) Share(n, all int) string {
	if all == 0 {
		return "0 %"
	}
	return strconv.FormatFloat(float64(n)*100/float64(all), 'f', 1, 64) + " %"
}

// Grace returns for how long the tags of the plan have been dropped at least.
func (v pruningView) Grace() string {
	d, err := time.ParseDuration(v.Review.Grace)
	if err != nil {
		return v.Review.Grace
	}
	return span(d)
}

func pruning(site *Site, p mirrorPage, r *http.Request) (view, error) {
	v, err := lookAtPlan(r.Context(), site, p.name)
	if err != nil {
		return view{}, err
	}
	v.Stays = r.URL.Query().Get("show") == "stays"
	rows := 0
	if v.Plan != nil {
		rows = v.Plan.Tags
		if v.Stays {
			rows = len(v.Plan.Left)
		}
	}
	if v.paging, err = newPaging(r, rows, pruneRows); err != nil {
		return view{}, err
	}
	switch {
	case v.Plan == nil:
	case v.Stays:
		v.Left = v.Plan.Left[v.from:v.to]
	default:
		v.Rows = rowsOf(v.Plan, v.from, v.to)
	}
	return view{Template: "pruning", Title: "Pruning", Data: v, Live: v.Busy()}, nil
}

// lookAtPlan returns the state of the pruning of a mirror.
func lookAtPlan(ctx context.Context, site *Site, mirror string) (v pruningView, err error) {
	v.Terms = PruneTerms{Grace: "30d", Max: "10%", PerRepository: "50%"}
	if mirror == site.Mirror {
		v.Survey = site.Surveys()
	}
	if v.State, err = site.Prunes.State(ctx, mirror); err != nil || v.Review == nil {
		return v, err
	}
	if v.UnderWay() {
		record, err := site.Prunes.Record(ctx, mirror, v.Review.Plan)
		if err != nil {
			return v, err
		}
		v.Done, v.Review.Outcome = record.Done.Len(), record.Outcome
	}
	plan, err := site.Prunes.Proposed(ctx, mirror, v.Review)
	if errors.Is(err, prune.ErrGone) || errors.Is(err, prune.ErrPlan) { // another release may have written it
		v.Review = nil
		return v, nil
	}
	v.Plan = &plan
	return v, err
}

// rowsOf returns rows of the tags from up to to of a plan, below their repositories.
func rowsOf(p *prune.Plan, from, to int) (rows []pruneRow) {
	n := 0
	for i := range p.Repositories {
		r := &p.Repositories[i]
		first := true
		for _, t := range r.Tags {
			if n >= from && n < to {
				if first {
					rows = append(rows, pruneRow{Repository: r})
					first = false
				}
				rows = append(rows, pruneRow{Tag: t})
			}
			n++
		}
	}
	return rows
}
