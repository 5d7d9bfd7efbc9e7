package web

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/planner/waiting"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	repositoriesPage = 100
	tagsPage         = 200
)

// imagesView is the page Images.
type imagesView struct {
	Search, State string
	States        []run.Outcome
	Repositories  []catalog.Repository
	Found         int
	Waiting       int // waiting tags of the mirror
	paging
}

// unseen is the state of repositories that no worker has looked at yet. unlisted is that of
// repositories whose tags could not be listed.
const (
	unseen   run.Outcome = "unseen"
	unlisted run.Outcome = "unlisted"
)

// filterStates are the states by which users can filter: those of tags, and those of repositories.
var filterStates = []run.Outcome{run.Copied, run.Skipped, run.Failed, run.Waiting, run.Kept, run.Vanished, unlisted, unseen}

func images(site *Site, p mirrorPage, r *http.Request) (view, error) {
	if name := r.URL.Query().Get("repository"); name != "" {
		return repositoryPage(site, p, name, r)
	}
	tags, err := waiting.List(r.Context(), site.Catalog, p.name)
	if err != nil {
		return view{}, err
	}
	all, search, state, err := find(r.Context(), site, p.name, r)
	if err != nil {
		return view{}, err
	}
	v := imagesView{Search: search, State: state, States: filterStates, Waiting: len(tags)}
	v.Found = len(all)
	if v.paging, err = newPaging(r, len(all), repositoriesPage); err != nil {
		return view{}, err
	}
	v.Repositories = all[v.from:v.to]
	return view{Template: "images", Title: "Images", Data: v}, nil
}

// checkState checks the state by which a request filters repositories.
func checkState(r *http.Request) error {
	state := r.URL.Query().Get("state")
	if state != "" && !slices.Contains(filterStates, run.Outcome(state)) {
		return fmt.Errorf("%w: there is no such state", errBadRequest)
	}
	return nil
}

// find returns the repositories that match the text and the state in the query of a request.
func find(ctx context.Context, site *Site, mirror string, r *http.Request) (all []catalog.Repository, text, state string, err error) {
	text, state = strings.TrimSpace(r.URL.Query().Get("q")), r.URL.Query().Get("state")
	all, err = site.Catalog.List(ctx, mirror)
	all = slices.DeleteFunc(all, func(r catalog.Repository) bool {
		return !is(r, run.Outcome(state)) || !holds(r, strings.ToLower(text))
	})
	return all, text, state, err
}

// is reports whether a repository or one of its tags has the state. An empty state matches all.
func is(r catalog.Repository, state run.Outcome) bool {
	switch state {
	case "":
		return true
	case unseen:
		return r.Unseen()
	case unlisted:
		return r.Why != ""
	}
	return r.Count(state) > 0
}

// holds reports whether the name, a tag or a digest of a repository contains the text.
func holds(r catalog.Repository, text string) bool {
	if text == "" || strings.Contains(r.Source.String(), text) {
		return true
	}
	return slices.ContainsFunc(r.Tags, func(t catalog.Tag) bool {
		return strings.Contains(strings.ToLower(t.Name.String()), text) || strings.Contains(t.Source.String(), text) || strings.Contains(t.At.String(), text)
	})
}

// repositoryView is the page of a repository.
type repositoryView struct {
	catalog.Repository
	Name string
	Tags []tagRow
	paging
}

// tagRow is a tag of a repository.
type tagRow struct {
	catalog.Tag
	Waits *waitingRow // nil if it does not wait
}

func repositoryPage(site *Site, p mirrorPage, name string, r *http.Request) (view, error) {
	all, err := site.Catalog.List(r.Context(), p.name)
	if err != nil {
		return view{}, err
	}
	releases, err := site.Releases.List(r.Context())
	if err != nil {
		return view{}, err
	}
	i := slices.IndexFunc(all, func(r catalog.Repository) bool { return r.Source.String() == name })
	if i < 0 {
		return view{}, fmt.Errorf("%w: no run has seen %s", overview.ErrUnknown, name)
	}
	v := repositoryView{Repository: all[i], Name: name}
	if v.paging, err = newPaging(r, len(all[i].Tags), tagsPage); err != nil {
		return view{}, err
	}
	for _, t := range all[i].Tags[v.from:v.to] {
		row := tagRow{Tag: t}
		if tag, ok := waiting.Of(all[i].Source, t); ok {
			w := newWaitingRow(tag, releases, p.At)
			row.Waits = &w
		}
		v.Tags = append(v.Tags, row)
	}
	return view{Template: "repository", Title: name, Data: v}, nil
}
