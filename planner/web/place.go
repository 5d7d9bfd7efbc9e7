package web

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/osism/skopeo-worker/planner/overview"
)

// place is a page with the query of a link to it.
type place struct {
	path  string
	query []string // names and values; empty values are left out
}

// link returns the link to the place for a mirror, with more of a query. It does not name the mirror
// if that is own, the one that this process plans.
func (p place) link(own, mirror string, more ...string) string {
	query := url.Values{}
	if mirror != "" && mirror != own {
		query.Set("mirror", mirror)
	}
	for _, pairs := range [][]string{p.query, more} {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i+1] != "" {
				query.Set(pairs[i], pairs[i+1])
			}
		}
	}
	if len(query) == 0 {
		return p.path
	}
	return p.path + "?" + query.Encode()
}

// mirrorPage is the state of a mirror for a page about it.
type mirrorPage struct {
	name   string
	failed int // images
	overview.Overview
}

// pageAbout reads the state of all mirrors for a page about one. It returns overview.ErrUnknown if
// there is no such mirror.
func pageAbout(ctx context.Context, site *Site, name string) (mirrorPage, error) {
	o, err := site.Overview.Now(ctx)
	if err != nil {
		return mirrorPage{}, err
	}
	m, err := o.Mirror(name)
	return mirrorPage{name, m.Failures.Images, o}, err
}

// view adds the fields of all pages about a mirror to a view.
func (p mirrorPage) view(v view) view {
	v.Mirror, v.Failed = p.name, p.failed
	for _, m := range p.Mirrors {
		v.Mirrors = append(v.Mirrors, m.Name)
	}
	return v
}

// errorView returns the page about an error. If back is not empty, the page links to it.
func errorView(status int, text, back string) view {
	return view{Template: "error", Status: status, Title: strconv.Itoa(status) + " " + http.StatusText(status), Text: text, Data: back}
}
