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
	"github.com/osism/skopeo-worker/shared/release"
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
	Waiting       int // tags of the mirror
	paging
}

// Searched is what the repositories were searched for.
func (v imagesView) Searched() string { return v.Search }

// unseen filters repositories that no worker has looked at yet, and unlisted those that could
// not be listed.
const (
	unseen   run.Outcome = "unseen"
	unlisted run.Outcome = "unlisted"
)

// filterStates are the states that repositories can be filtered by: those of their tags, and
// those of the whole repository.
var filterStates = []run.Outcome{run.Copied, run.Skipped, run.Failed, run.Waiting, run.Kept, run.Vanished, unlisted, unseen}

func (*Server) images(site *Site, r *http.Request) (view, error) {
	p, err := pageOf(site, r)
	if err != nil {
		return view{}, err
	}
	var all []catalog.Repository
	if name := r.URL.Query().Get("repository"); name != "" {
		if all, err = site.Catalog.List(r.Context(), p.mirror); err != nil {
			return view{}, err
		}
		releases, err := site.Releases.List(r.Context())
		if err != nil {
			return view{}, err
		}
		return repositoryPage(p, releases, all, name, r)
	}
	tags, err := waiting.List(r.Context(), site.Catalog, p.mirror)
	if err != nil {
		return view{}, err
	}
	v := imagesView{States: filterStates, Waiting: len(tags)}
	if all, v.Search, v.State, err = find(r.Context(), site, p.mirror, r); err != nil {
		return view{}, err
	}
	v.Found = len(all)
	if v.paging, err = newPaging(r, len(all), repositoriesPage); err != nil {
		return view{}, err
	}
	v.Repositories = all[v.from:v.to]
	return p.view(view{Template: "images", Title: "Images", Data: v})
}

// find returns the repositories that a request searches for, with the text and the state.
func find(ctx context.Context, site *Site, mirror string, r *http.Request) (all []catalog.Repository, text, state string, err error) {
	text, state = strings.TrimSpace(r.URL.Query().Get("q")), r.URL.Query().Get("state")
	if state != "" && !slices.Contains(filterStates, run.Outcome(state)) {
		return nil, "", "", fmt.Errorf("%w: there is no such state", errBadRequest)
	}
	all, err = site.Catalog.List(ctx, mirror)
	all = slices.DeleteFunc(all, func(r catalog.Repository) bool {
		return !is(r, run.Outcome(state)) || !holds(r, strings.ToLower(text))
	})
	return all, text, state, err
}

// is reports whether a repository, or a tag of it, is in a state. Everything is in the empty
// one.
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

// holds reports whether a repository has the text in its name, in a tag or in a digest.
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
	Waits *waitingRow // nil: it does not wait
}

func repositoryPage(p mirrorPage, releases []release.Release, all []catalog.Repository, name string, r *http.Request) (view, error) {
	i := slices.IndexFunc(all, func(r catalog.Repository) bool { return r.Source.String() == name })
	if i < 0 {
		return view{}, fmt.Errorf("%w: nothing was seen of %s", overview.ErrUnknown, name)
	}
	v := repositoryView{Repository: all[i], Name: name}
	var err error
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
	return p.view(view{Template: "repository", Title: name, Data: v})
}
