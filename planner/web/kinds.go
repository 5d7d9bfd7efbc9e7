package web

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/osism/skopeo-worker/shared/run"
)

// own returns an error unless this process plans and prunes the mirror.
func own(site *Site, mirror string) error {
	if mirror != site.Mirror {
		return fmt.Errorf("%w: this process plans and prunes only mirror %s", errBadRequest, site.Mirror)
	}
	return nil
}

func parsePlan(site *Site, mirror string, _ url.Values) (action, error) {
	return action{
		Question:    "Fetch the list and plan mirror " + mirror + " now?",
		Explanation: "The plan supersedes an unfinished one. But if that has the same list, it continues, and no new plan is made.",
		Button:      "Plan now",
		back:        place{path: "/"},
		do:          func(ctx context.Context, site *Site, _ string) (string, error) { return site.Actions.Plan(ctx) },
	}, own(site, mirror)
}

// errRepublish is returned if a field is empty, so that a mistake does not republish everything.
var errRepublish = fmt.Errorf("%w: expected a repository or an image that is not empty, or neither to republish all", errBadRequest)

func parseRepublish(_ *Site, mirror string, given url.Values) (action, error) {
	which := Republish{Repository: given.Get("repository"), Image: given.Get("image")}
	if given.Has("repository") != (which.Repository != "") || given.Has("image") != (which.Image != "") || which.Repository != "" && which.Image != "" {
		return action{}, errRepublish
	}
	a := action{
		Question:    "Retry all failed images of mirror " + mirror + "?",
		Explanation: "They are delivered to the workers at once, as a new run. Those that fail again are kept again.",
		Button:      "Republish",
		back:        place{path: "/failures"},
		do: func(ctx context.Context, site *Site, _ string) (string, error) {
			return site.Actions.Republish(ctx, mirror, which)
		},
	}
	switch {
	case which.Repository != "":
		a.Question = "Retry the failed images of " + clean(which.Repository) + "?"
		a.fields = []field{{"repository", which.Repository}}
	case which.Image != "":
		a.Question = "Retry the failed image " + clean(which.Image) + "?"
		a.Explanation = "It is delivered to the workers at once, as a new run. If it fails again, it is kept again. Other failures stay as they are."
		a.fields = []field{{"image", which.Image}}
	}
	return a, nil
}

func parseCancel(_ *Site, mirror string, given url.Values) (action, error) {
	id := given.Get("run")
	if !run.ValidID(id) {
		return action{}, errNotOffered
	}
	return action{
		Question:    "Cancel the chunks of run " + id + " that have not started?",
		Explanation: "A worker may finish a chunk that it has already. Republished images become failures again.",
		Button:      "Cancel run",
		fields:      []field{{"run", id}},
		back:        place{path: "/runs/" + id},
		do: func(ctx context.Context, site *Site, _ string) (string, error) {
			return site.Actions.Cancel(ctx, mirror, id)
		},
	}, nil
}

func parseSurvey(site *Site, mirror string, given url.Values) (action, error) {
	terms := PruneTerms{Grace: given.Get("grace"), Max: given.Get("max"), PerRepository: given.Get("max_per_repository")}
	var err error
	if terms.LeftList, err = strconv.ParseBool(cmp.Or(given.Get("left_list"), "false")); err != nil {
		return action{}, fmt.Errorf("%w: left_list: expected true or false", errBadRequest)
	}
	fields := []field{{"grace", terms.Grace}, {"max", terms.Max}, {"max_per_repository", terms.PerRepository}}
	for _, pattern := range given["keep"] {
		if pattern = strings.TrimSpace(pattern); pattern != "" { // the form may send an empty one
			terms.Keep = append(terms.Keep, pattern)
			fields = append(fields, field{"keep", pattern})
		}
	}
	return action{
		Question:    "Make a prune plan for mirror " + mirror + "?",
		Explanation: "Nothing is deleted. The plan replaces the last one. You can then read and confirm it.",
		Button:      "Make a plan",
		fields:      append(fields, field{"left_list", strconv.FormatBool(terms.LeftList)}),
		back:        place{path: "/pruning"},
		do: func(ctx context.Context, site *Site, user string) (string, error) {
			return site.Pruning.Survey(ctx, terms, user)
		},
	}, own(site, mirror)
}

// planID matches the ID of a prune plan.
var planID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// parseExecute parses the confirmation of a prune plan by the number of its tags. The page of the
// plan has the form.
func parseExecute(site *Site, mirror string, given url.Values) (action, error) {
	id := given.Get("plan")
	if !planID.MatchString(id) {
		return action{}, errNotOffered
	}
	tags, err := strconv.Atoi(strings.Join(strings.Fields(given.Get("tags")), "")) // a user may type 1 000
	if err != nil {
		tags = -1 // no plan has so many
	}
	return action{
		fields: []field{{"plan", id}, {"tags", strconv.Itoa(tags)}},
		back:   place{path: "/pruning"},
		do: func(ctx context.Context, site *Site, user string) (string, error) {
			return site.Pruning.Execute(ctx, id, tags, user)
		},
	}, own(site, mirror)
}
