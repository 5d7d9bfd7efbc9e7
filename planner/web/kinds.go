package web

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/osism/skopeo-worker/shared/run"
)

// own returns an error unless the mirror is the one that this process plans and prunes.
func own(site *Site, mirror string) error {
	if mirror != site.Mirror {
		return fmt.Errorf("%w: this process plans and prunes the mirror %s only", errBadRequest, site.Mirror)
	}
	return nil
}

// plan fetches the list and plans.
type plan struct{ mirror string }

func parsePlan(site *Site, mirror string, _ url.Values) (action, error) {
	return plan{mirror}, own(site, mirror)
}

func (a plan) Question() string { return "Fetch the list and plan mirror " + a.mirror + " now?" }
func (plan) Explanation() string {
	return "The plan supersedes an older one that is unfinished. If that has the same list, it continues instead."
}
func (plan) Button() string  { return "Plan now" }
func (plan) fields() []field { return nil }
func (plan) back() place     { return place{path: "/"} }
func (plan) do(ctx context.Context, site *Site, _ string) (string, error) {
	return site.Actions.Plan(ctx)
}

// republish retries failures.
type republish struct {
	mirror string
	which  Republish
}

// errRepublish is returned for what is empty by mistake: it must not republish everything.
var errRepublish = fmt.Errorf("%w: expected a repository or an image that is not empty, or neither to republish all", errBadRequest)

func parseRepublish(_ *Site, mirror string, given url.Values) (action, error) {
	a := republish{mirror, Republish{Repository: given.Get("repository"), Image: given.Get("image")}}
	if given.Has("repository") != (a.which.Repository != "") || given.Has("image") != (a.which.Image != "") || a.which.Repository != "" && a.which.Image != "" {
		return nil, errRepublish
	}
	return a, nil
}

func (a republish) Question() string {
	switch {
	case a.which.Image != "":
		return "Retry the failed image " + clean(a.which.Image) + "?"
	case a.which.Repository != "":
		return "Retry the failed images of " + clean(a.which.Repository) + "?"
	}
	return "Retry all failed images of mirror " + a.mirror + "?"
}

func (a republish) Explanation() string {
	if a.which.Image != "" {
		return "It is delivered to the workers at once, as a new run. If it fails again, it is kept again. Other failures stay as they are."
	}
	return "They are delivered to the workers at once, as a new run. Those that fail again are kept again."
}

func (republish) Button() string { return "Republish" }

func (a republish) fields() (all []field) {
	if a.which.Repository != "" {
		all = append(all, field{"repository", a.which.Repository})
	}
	if a.which.Image != "" {
		all = append(all, field{"image", a.which.Image})
	}
	return all
}

func (republish) back() place { return place{path: "/failures"} }

func (a republish) do(ctx context.Context, site *Site, _ string) (string, error) {
	return site.Actions.Republish(ctx, a.mirror, a.which)
}

// cancel cancels what has not started of a run.
type cancel struct{ mirror, run string }

func parseCancel(_ *Site, mirror string, given url.Values) (action, error) {
	a := cancel{mirror, given.Get("run")}
	if !run.ValidID(a.run) {
		return nil, errNotOffered
	}
	return a, nil
}

func (a cancel) Question() string {
	return "Cancel the chunks of run " + a.run + " that have not started?"
}
func (cancel) Explanation() string {
	return "A worker may finish a chunk that it has already. Republished images become failures again."
}
func (cancel) Button() string    { return "Cancel run" }
func (a cancel) fields() []field { return []field{{"run", a.run}} }
func (a cancel) back() place     { return place{path: "/runs/" + a.run} }
func (a cancel) do(ctx context.Context, site *Site, _ string) (string, error) {
	return site.Actions.Cancel(ctx, a.mirror, a.run)
}

// survey makes a prune plan.
type survey struct {
	mirror string
	terms  PruneTerms
}

func parseSurvey(site *Site, mirror string, given url.Values) (action, error) {
	a := survey{mirror, PruneTerms{Grace: given.Get("grace"), Max: given.Get("max"), PerRepository: given.Get("max_per_repository")}}
	for _, pattern := range given["keep"] {
		if pattern = strings.TrimSpace(pattern); pattern != "" { // the form has an empty one
			a.terms.Keep = append(a.terms.Keep, pattern)
		}
	}
	if text := given.Get("left_list"); text != "" {
		var err error
		if a.terms.LeftList, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("%w: left_list: expected true or false", errBadRequest)
		}
	}
	return a, own(site, mirror)
}

func (a survey) Question() string { return "Make a plan of what to prune of mirror " + a.mirror + "?" }
func (survey) Explanation() string {
	return "Nothing is deleted. The plan is to be read and confirmed, and takes the place of the last one."
}
func (survey) Button() string { return "Make a plan" }
func (a survey) fields() []field {
	all := []field{{"grace", a.terms.Grace}, {"max", a.terms.Max}, {"max_per_repository", a.terms.PerRepository}}
	for _, pattern := range a.terms.Keep {
		all = append(all, field{"keep", pattern})
	}
	return append(all, field{"left_list", strconv.FormatBool(a.terms.LeftList)})
}
func (survey) back() place { return place{path: "/pruning"} }
func (a survey) do(ctx context.Context, site *Site, user string) (string, error) {
	return site.Pruning.Survey(ctx, a.terms, user)
}

// execute confirms a prune plan by the number of its tags. The page of the plan asks for it.
type execute struct {
	mirror, plan string
	tags         int // as the user says; -1: none
}

// planID is the ID of a prune plan.
var planID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func parseExecute(site *Site, mirror string, given url.Values) (action, error) {
	a := execute{mirror, given.Get("plan"), typed(given.Get("tags"))}
	if !planID.MatchString(a.plan) {
		return nil, errNotOffered
	}
	return a, own(site, mirror)
}

// typed is a number as a user types it, perhaps with spaces; -1 if it is none.
func typed(text string) int {
	n, err := strconv.Atoi(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return -1
	}
	return n
}

func (a execute) fields() []field { return []field{{"plan", a.plan}, {"tags", strconv.Itoa(a.tags)}} }
func (execute) back() place       { return place{path: "/pruning"} }
func (a execute) do(ctx context.Context, site *Site, user string) (string, error) {
	return site.Pruning.Execute(ctx, a.plan, a.tags, user)
}
