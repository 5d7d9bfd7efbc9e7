package web

import (
	"context"
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
