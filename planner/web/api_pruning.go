package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/osism/skopeo-worker/worker/prune"
)

// apiPruning answers with how the pruning of a mirror stands, and the plan on the page.
func apiPruning(ctx context.Context, site *Site, r *http.Request) (any, error) {
	name, err := known(ctx, site, r)
	if err != nil {
		return nil, err
	}
	v, err := lookAtPlan(ctx, site, name)
	return struct {
		Survey PruneSurvey   `json:"survey"`
		Review *prune.Review `json:"review"`
		Done   int           `json:"done"`
		Plan   *prune.Plan   `json:"plan"`
		Last   *prune.Last   `json:"last"`
	}{v.Survey, v.Review, v.Done, v.Plan, v.Last}, err
}

// pruning reads the body of a request to make or to execute a plan.
func (a action) pruning(site *Site, r *http.Request) (action, error) {
	if a.Mirror != site.Mirror {
		return a, fmt.Errorf("%w: this process prunes the mirror %s only", errBadRequest, site.Mirror)
	}
	a.Tags = -1
	var body any = &a.Terms
	if a.Name == "execute" {
		body = &struct {
			Tags *int `json:"tags"`
		}{&a.Tags}
		if !planID.MatchString(a.Plan) {
			return a, errNotOffered
		}
	}
	if r.ContentLength == 0 {
		return a, nil
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(body); err != nil {
		return a, fmt.Errorf("%w: the body is not as openapi.yaml describes it: %w", errBadRequest, err)
	}
	return a, nil
}
