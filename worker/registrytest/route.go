package registrytest

import (
	"maps"
	"net/http"
	"reflect"
	"sync"

	v2 "github.com/distribution/distribution/v3/registry/api/v2"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/gorilla/mux"
)

// place is what distribution finds for a path: a route, and its variables.
type place struct {
	route string
	vars  map[string]string
}

// places are those of all paths so far, for all registries.
var places sync.Map

// rememberRoutes lets distribution look up each path once. It compares a path with up to six
// expressions for the names of repositories. With the race detector, that takes more time than the answer.
func rememberRoutes(app *handlers.App) {
	router := (*mux.Router)(reflect.ValueOf(app).Elem().FieldByName("router").UnsafePointer())
	own := *router
	remembering := mux.NewRouter()
	remembering.MatcherFunc(func(req *http.Request, match *mux.RouteMatch) bool {
		found, ok := find(req)
		if !ok {
			return own.Match(req, match)
		}
		match.Route = own.Get(found.route)
		match.Handler, match.Vars = match.Route.GetHandler(), maps.Clone(found.vars)
		return true
	})
	*router = *remembering
}

// find returns the place of a request. It does not know paths that lead to an error or a redirect.
func find(req *http.Request) (place, bool) {
	if known, ok := places.Load(req.URL.Path); ok {
		return known.(place), true
	}
	var match mux.RouteMatch
	if !v2.Router().Match(req, &match) || match.Handler != nil { // a redirect
		return place{}, false
	}
	found := place{match.Route.GetName(), match.Vars}
	if found.route != v2.RouteNameBlobUploadChunk { // each has another path
		places.Store(req.URL.Path, found)
	}
	return found, true
}
