package registrytest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Match selects requests. It must not call the registry.
type Match func(Request) bool

// Any matches every request.
func Any(Request) bool { return true }

// Kinds matches requests of one of these kinds.
func Kinds(kinds ...Kind) Match {
	return func(r Request) bool { return slices.Contains(kinds, r.Kind) }
}

// In matches requests about a repository.
func In(repository string) Match {
	return func(r Request) bool { return r.Repository == repository }
}

// Ref matches requests about a tag or digest.
func Ref(reference string) Match {
	return func(r Request) bool { return r.Reference == reference }
}

// Answered matches requests answered with this status.
func Answered(status int) Match {
	return func(r Request) bool { return r.Status == status }
}

// All matches what every one of the given matches.
func All(matches ...Match) Match {
	return func(r Request) bool {
		return !slices.ContainsFunc(matches, func(m Match) bool { return !m(r) })
	}
}

const (
	apiRoot   = "/v2/"
	tokenPath = "/token"

	// quayTokenPath is where quay.io has its token service.
	quayTokenPath = "/v2/auth"
)

// resources are what a repository has by reference, and the kinds of requests
// about it.
var resources = map[string]map[string]Kind{
	"/manifests": {
		http.MethodHead: KindManifestHead, http.MethodGet: KindManifestGet, http.MethodPut: KindManifestPut,
	},
	"/blobs":     {http.MethodHead: KindBlobHead, http.MethodGet: KindBlobGet},
	"/referrers": {http.MethodGet: KindReferrers},
}

// parse reads what a request is about from its method and path.
func parse(req *http.Request) Request {
	r := Request{
		At:        time.Now(),
		Method:    req.Method,
		Path:      req.URL.Path,
		Kind:      KindOther,
		Accept:    strings.Join(req.Header.Values("Accept"), ", "),
		Range:     req.Header.Get("Range") + req.Header.Get("Content-Range"),
		UserAgent: req.UserAgent(),
	}
	name, ok := strings.CutPrefix(r.Path, apiRoot)
	switch {
	case r.Path == tokenPath, r.Path == quayTokenPath:
		r.Kind = KindToken
	case r.parseBulk(req.URL.Query()):
	case !ok:
	case name == "":
		r.Kind = KindPing
	default:
		r.parseName(name, req)
	}
	return r
}

// parseName reads from the right, because a repository may be called "blobs".
func (r *Request) parseName(name string, req *http.Request) {
	if repository, ok := strings.CutSuffix(name, "/tags/list"); ok {
		r.Kind, r.Repository = KindTags, repository
		return
	}
	query := req.URL.Query()
	if i := strings.LastIndex(name, "/blobs/uploads/"); i > 0 {
		r.Repository, r.Reference = name[:i], query.Get("digest")
		switch {
		case r.Method == http.MethodPut:
			r.Kind = KindBlobUpload
		case r.Method == http.MethodPost && query.Has("mount"):
			r.Kind, r.Reference = KindBlobMount, query.Get("mount")
		}
		return
	}
	resource, reference := cutLast(name)
	for suffix, kinds := range resources {

		if repository, ok := strings.CutSuffix(resource, suffix); ok {
			r.Repository, r.Reference = repository, reference
			if kind, ok := kinds[r.Method]; ok {
				r.Kind = kind
			}
		}
	}
}

func cutLast(name string) (before, after string) {
	i := strings.LastIndex(name, "/")
	if i < 0 {
		return name, ""
	}
	return name[:i], name[i+1:]
}
