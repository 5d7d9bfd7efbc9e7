package web

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/osism/skopeo-worker/planner/overview"
)

// place is a page with what it is asked for.
type place struct {
	path  string
	query []string // names and values; what is empty is left out
}

// link leads to the place for a mirror, with more of a query. own is the mirror that a link
// need not name.
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

// mirrorPage is what pages about a mirror begin with.
type mirrorPage struct {
	mirror string
	overview.Overview
}

// pageAbout looks at a mirror. It returns overview.ErrUnknown if nothing is known of it.
func pageAbout(ctx context.Context, site *Site, mirror string) (mirrorPage, error) {
	o, err := site.Overview.Now(ctx)
	if err == nil {
		_, err = o.Mirror(mirror)
	}
	return mirrorPage{mirror, o}, err
}

// pageOf looks at the mirror that a request names, or that of this process.
func pageOf(site *Site, r *http.Request) (mirrorPage, error) {
	return pageAbout(r.Context(), site, cmp.Or(r.URL.Query().Get("mirror"), site.Mirror))
}

// view adds to a page what all of them have.
func (p mirrorPage) view(v view) (view, error) {
	m, err := p.Mirror(p.mirror)
	if err != nil {
		return view{}, err
	}
	v.Mirror, v.Failed = p.mirror, m.Failures.Images
	for _, m := range p.Mirrors {
		v.Mirrors = append(v.Mirrors, m.Name)
	}
	return v, nil
}

// errorView is the page about an error; back may be empty.
func errorView(status int, text, back string) view {
	return view{Template: "error", Status: status, Title: strconv.Itoa(status) + " " + http.StatusText(status), Text: text, Data: back}
}
