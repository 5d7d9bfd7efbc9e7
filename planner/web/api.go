package web

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/planner/waiting"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/prune"
)

// openAPI describes the API. Tests compare the handlers with it.
//
//go:embed openapi.yaml
var openAPI []byte

// maxRuns and maxRepositories bound the lists in an answer.
const maxRuns, maxRepositories = 200, 100

// apiRoutes returns the handlers of the API by pattern.
func (s *Server) apiRoutes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /api/v1/openapi.yaml": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/yaml")
			_, _ = w.Write(openAPI)
		},
		"GET /api/v1/mirrors": s.api(func(r *http.Request, site *Site) (any, error) {
			return site.Overview.Now(r.Context())
		}),
		"GET /api/v1/mirrors/{mirror}/failures":                s.apiOf(apiFailures),
		"GET /api/v1/mirrors/{mirror}/repositories":            s.apiOf(apiRepositories, checkPart, checkState),
		"GET /api/v1/mirrors/{mirror}/waiting":                 s.apiOf(apiWaiting),
		"GET /api/v1/mirrors/{mirror}/runs":                    s.apiOf(apiRuns, checkPart),
		"GET /api/v1/mirrors/{mirror}/runs/{run}":              s.apiOf(apiRun),
		"GET /api/v1/mirrors/{mirror}/runs/{run}/changes":      s.apiOf(apiChanges),
		"GET /api/v1/mirrors/{mirror}/pruning":                 s.apiOf(apiPruning),
		"POST /api/v1/mirrors/{mirror}/pruning":                s.apiAction(surveying),
		"POST /api/v1/mirrors/{mirror}/pruning/{plan}/execute": s.apiAction(executing),
		"POST /api/v1/mirrors/{mirror}/plan":                   s.apiAction(planning),
		"POST /api/v1/mirrors/{mirror}/republish":              s.apiAction(republishing),
		"POST /api/v1/mirrors/{mirror}/release":                s.apiAction(releasing),
		"POST /api/v1/mirrors/{mirror}/runs/{run}/cancel":      s.apiAction(cancelling),
	}
}

// apiError is the body of an answer with an error.
type apiError struct {
	Error string `json:"error"`
}

func sendJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error":"The answer cannot be written as JSON."}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

// api serves the value that look returns as JSON.
func (s *Server) api(look func(*http.Request, *Site) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		site, err := s.ready()
		var value any
		if err == nil {
			value, err = look(r, site)
		}
		s.answer(w, r, value, err)
	}
}

// apiOf is api for a path that names a mirror. The error is overview.ErrUnknown if the mirror is
// unknown.
func (s *Server) apiOf(look func(ctx context.Context, site *Site, mirror string, r *http.Request) (any, error), checks ...check) http.HandlerFunc {
	return s.api(func(r *http.Request, site *Site) (any, error) {
		if err := checkAll(r, checks); err != nil {
			return nil, err
		}
		p, err := pageAbout(r.Context(), site, r.PathValue("mirror"))
		if err != nil {
			return nil, err
		}
		return look(r.Context(), site, p.name, r)
	})
}

// answer sends a value or an error as JSON.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, value any, err error) {
	if err == nil {
		sendJSON(w, http.StatusOK, value)
		return
	}
	status, known := statusOf(err)
	if !known {
		s.log.Warn("a request of the API cannot be answered", "path", r.URL.Path, "error", err)
	}
	sendJSON(w, status, apiError{sentence(err)})
}

func apiFailures(ctx context.Context, site *Site, mirror string, _ *http.Request) (any, error) {
	records, err := site.Failures.List(ctx, mirror)
	return append([]failure.Record{}, records...), err
}

// apiRunRow is a run with its status.
type apiRunRow struct {
	Kind        string     `json:"kind"`
	Interrupted bool       `json:"interrupted,omitempty"`
	Destination string     `json:"destination"`
	Status      run.Status `json:"status"`
}

func rowOf(r overview.Run) apiRunRow {
	r.Status.Failures = run.Failures{} // they belong to the mirror
	return apiRunRow{r.Kind, r.Interrupted, r.Destination, r.Status}
}

func apiRuns(ctx context.Context, site *Site, mirror string, r *http.Request) (any, error) {
	skip, count, err := partOf(r, maxRuns)
	if err != nil {
		return nil, err
	}
	runs, total, err := site.Overview.Runs(ctx, mirror, skip, count)
	answer := struct {
		Total int         `json:"total"`
		Runs  []apiRunRow `json:"runs"`
	}{total, []apiRunRow{}}
	for _, r := range runs {
		answer.Runs = append(answer.Runs, rowOf(r))
	}
	return answer, err
}

// partOf parses the parameters skip and count of a request for a list. It returns a count of at most
// most.
func partOf(r *http.Request, most int) (skip, count int, err error) {
	count = most
	for key, value := range map[string]*int{"skip": &skip, "count": &count} {
		if text := r.URL.Query().Get(key); text != "" {
			if *value, err = strconv.Atoi(text); err != nil || *value < 0 {
				return 0, 0, fmt.Errorf("%w: %s is not a number of items", errBadRequest, key)
			}
		}
	}
	return skip, min(count, most), nil
}

func checkPart(r *http.Request) error {
	_, _, err := partOf(r, 0)
	return err
}

func apiRepositories(ctx context.Context, site *Site, mirror string, r *http.Request) (any, error) {
	skip, count, err := partOf(r, maxRepositories)
	if err != nil {
		return nil, err
	}
	all, _, _, err := find(ctx, site, mirror, r)
	if err != nil {
		return nil, err
	}
	skip = min(skip, len(all))
	return struct {
		Total        int                  `json:"total"`
		Repositories []catalog.Repository `json:"repositories"`
	}{len(all), append([]catalog.Repository{}, all[skip:min(skip+count, len(all))]...)}, nil
}

func apiRun(ctx context.Context, site *Site, mirror string, r *http.Request) (any, error) {
	found, chunks, err := site.Overview.Run(ctx, mirror, r.PathValue("run"))
	return struct {
		apiRunRow
		Chunks []overview.Chunk `json:"chunks"`
	}{rowOf(found), append([]overview.Chunk{}, chunks...)}, err
}

func apiWaiting(ctx context.Context, site *Site, mirror string, _ *http.Request) (any, error) {
	tags, releases, err := lookAtWaiting(ctx, site, mirror)
	return waiting.NewReport(tags, releases), err
}

func apiChanges(ctx context.Context, site *Site, mirror string, r *http.Request) (any, error) {
	id := r.PathValue("run")
	changes, more, err := site.Changes.List(ctx, mirror, id)
	return change.NewReport(id, changes, more), err
}

// apiPruning returns the state of the pruning of a mirror, and the plan on the page.
func apiPruning(ctx context.Context, site *Site, mirror string, _ *http.Request) (any, error) {
	v, err := lookAtPlan(ctx, site, mirror)
	return struct {
		Survey PruneSurvey   `json:"survey"`
		Review *prune.Review `json:"review"`
		Done   int           `json:"done"`
		Plan   *prune.Plan   `json:"plan"`
		Last   *prune.Last   `json:"last"`
	}{v.Survey, v.Review, v.Done, v.Plan, v.Last}, err
}
