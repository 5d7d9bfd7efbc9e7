package web

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/planner/waiting"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// openAPI describes the API. Tests hold the handlers to it.
//
//go:embed openapi.yaml
var openAPI []byte

// maxRuns and maxRepositories are how many of them an answer has at most.
const maxRuns, maxRepositories = 200, 100

// apiRoutes are the paths of the API with what answers them.
func (s *Server) apiRoutes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /api/v1/openapi.yaml": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/yaml")
			_, _ = w.Write(openAPI)
		},
		"GET /api/v1/mirrors":                                  s.api(apiMirrors),
		"GET /api/v1/mirrors/{mirror}/failures":                s.api(apiFailures),
		"GET /api/v1/mirrors/{mirror}/repositories":            s.api(apiRepositories),
		"GET /api/v1/mirrors/{mirror}/waiting":                 s.api(apiWaiting),
		"GET /api/v1/mirrors/{mirror}/runs":                    s.api(apiRuns),
		"GET /api/v1/mirrors/{mirror}/runs/{run}":              s.api(apiRun),
		"GET /api/v1/mirrors/{mirror}/runs/{run}/changes":      s.api(apiChanges),
		"GET /api/v1/mirrors/{mirror}/pruning":                 s.api(apiPruning),
		"POST /api/v1/mirrors/{mirror}/pruning":                s.apiAction(surveying),
		"POST /api/v1/mirrors/{mirror}/pruning/{plan}/execute": s.apiAction(executing),
		"POST /api/v1/mirrors/{mirror}/plan":                   s.apiAction(planning),
		"POST /api/v1/mirrors/{mirror}/republish":              s.apiAction(republishing),
		"POST /api/v1/mirrors/{mirror}/release":                s.apiAction(releasing),
		"POST /api/v1/mirrors/{mirror}/runs/{run}/cancel":      s.apiAction(cancelling),
	}
}

// apiError is the body of an answer that is no success.
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

// api serves what look returns as JSON.
func (s *Server) api(look func(context.Context, *Site, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		site := s.site.Load()
		var value any
		err := errNotReady
		if site != nil {
			value, err = look(r.Context(), site, r)
		}
		if err != nil {
			s.apiFailed(w, r, err)
			return
		}
		sendJSON(w, http.StatusOK, value)
	}
}

func (s *Server) apiFailed(w http.ResponseWriter, r *http.Request, err error) {
	status, known := statusOf(err)
	if !known {
		s.log.Warn("a request of the API cannot be answered", "path", r.URL.Path, "error", err)
	}
	sendJSON(w, status, apiError{sentence(err)})
}

// known returns the mirror of the request's path, or overview.ErrUnknown.
func known(ctx context.Context, site *Site, r *http.Request) (string, error) {
	p, err := pageAbout(ctx, site, r.PathValue("mirror"))
	return p.mirror, err
}

func apiMirrors(ctx context.Context, site *Site, _ *http.Request) (any, error) {
	return site.Overview.Now(ctx)
}

func apiFailures(ctx context.Context, site *Site, r *http.Request) (any, error) {
	name, err := known(ctx, site, r)
	if err != nil {
		return nil, err
	}
	records, err := site.Failures.List(ctx, name)
	return append([]failure.Record{}, records...), err
}

// apiRunRow is a run with how it stands.
type apiRunRow struct {
	Kind        string     `json:"kind"`
	Interrupted bool       `json:"interrupted,omitempty"`
	Destination string     `json:"destination"`
	Status      run.Status `json:"status"`
}

func rowOf(r overview.Run) apiRunRow {
	r.Status.Failures = run.Failures{} // those are of the mirror
	return apiRunRow{r.Kind, r.Interrupted, r.Destination, r.Status}
}

func apiRuns(ctx context.Context, site *Site, r *http.Request) (any, error) {
	name, err := known(ctx, site, r)
	if err != nil {
		return nil, err
	}
	skip, count, err := partOf(r, maxRuns)
	if err != nil {
		return nil, err
	}
	runs, total, err := site.Overview.Runs(ctx, name, skip, count)
	answer := struct {
		Total int         `json:"total"`
		Runs  []apiRunRow `json:"runs"`
	}{total, []apiRunRow{}}
	for _, r := range runs {
		answer.Runs = append(answer.Runs, rowOf(r))
	}
	return answer, err
}

// partOf reads which part of a list a request is about, most items at most.
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

func apiRepositories(ctx context.Context, site *Site, r *http.Request) (any, error) {
	name, err := known(ctx, site, r)
	if err != nil {
		return nil, err
	}
	skip, count, err := partOf(r, maxRepositories)
	if err != nil {
		return nil, err
	}
	all, _, _, err := find(ctx, site, name, r)
	if err != nil {
		return nil, err
	}
	skip = min(skip, len(all))
	return struct {
		Total        int                  `json:"total"`
		Repositories []catalog.Repository `json:"repositories"`
	}{len(all), append([]catalog.Repository{}, all[skip:min(skip+count, len(all))]...)}, nil
}

func apiRun(ctx context.Context, site *Site, r *http.Request) (any, error) {
	name, err := known(ctx, site, r)
	if err != nil {
		return nil, err
	}
	found, chunks, err := site.Overview.Run(ctx, name, r.PathValue("run"))
	return struct {
		apiRunRow
		Chunks []overview.Chunk `json:"chunks"`
	}{rowOf(found), append([]overview.Chunk{}, chunks...)}, err
}

func apiWaiting(ctx context.Context, site *Site, r *http.Request) (any, error) {
	name, err := known(ctx, site, r)
	if err != nil {
		return nil, err
	}
	tags, releases, err := lookAtWaiting(ctx, site, name)
	return waiting.NewReport(tags, releases), err
}

func apiChanges(ctx context.Context, site *Site, r *http.Request) (any, error) {
	name, err := known(ctx, site, r)
	if err != nil {
		return nil, err
	}
	id := r.PathValue("run")
	changes, more, err := site.Changes.List(ctx, name, id)
	return change.NewReport(id, changes, more), err
}

// errReadOnly is returned for an action if UI_READ_ONLY is set.
var errReadOnly = errors.New("UI_READ_ONLY is set: this page does nothing")
