package registrytest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is the kind of a request.
type Kind string

// The kinds. KindOther are all other requests, such as the POST and the PATCHes of an
// upload, and deletions.
const (
	KindPing         Kind = "ping"
	KindToken        Kind = "token"
	KindTags         Kind = "tags"
	KindManifestHead Kind = "manifest-head"
	KindManifestGet  Kind = "manifest-get" // a pull
	KindManifestPut  Kind = "manifest-put"
	KindBlobHead     Kind = "blob-head"
	KindBlobGet      Kind = "blob-get"
	KindBlobUpload   Kind = "blob-upload" // the PUT that finishes an upload
	KindBlobMount    Kind = "blob-mount"  // 201: mounted; 202: turned into an upload
	KindReferrers    Kind = "referrers"
	KindBulkList     Kind = "bulk-list"    // of WithQuayAPI, WithHubAPI and WithHarborAPI
	KindRepositories Kind = "repositories" // a listing of repositories: _catalog, or of those APIs
	KindOther        Kind = "other"
)

// Request is a request that the registry received.
type Request struct {
	At         time.Time // of arrival
	Method     string
	Path       string
	Kind       Kind
	Repository string // without the host; "" for ping and token
	Reference  string // tag or digest; of an upload or mount, the blob's digest
	Page       int    // of a bulk listing, from 1; else 0
	Status     int    // 0 until it is answered
	Accept     string // all Accept headers, joined by ", "
	Range      string // Range, or Content-Range of an upload
	UserAgent  string
	Proto      string // "HTTP/1.1" or "HTTP/2.0"
	Client     string // address of the client's end of the connection
	Login      bool   // it had credentials
}

// recorder keeps all requests and notifies watchers. Its zero value is ready for use.
type recorder struct {
	mu       sync.Mutex
	entries  []*entry
	watchers map[*watcher]struct{}
}

// entry is a recorded request. Only recorder.answered changes it.
type entry struct{ request Request }

type watcher struct {
	match Match
	fired chan Request
}

func (r *recorder) arrived(request Request) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := &entry{request}
	r.entries = append(r.entries, e)
	r.tell(request)
	return e
}

func (r *recorder) answered(e *entry, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.request.Status = status
	r.tell(e.request)
}

func (r *recorder) tell(request Request) {
	for w := range r.watchers {
		if w.match(request) {
			w.fired <- request // does not block: it has room for one request and gets one
			close(w.fired)
			delete(r.watchers, w)
		}
	}
}

func (r *recorder) watch(match Match) *watcher {
	w := &watcher{match: match, fired: make(chan Request, 1)}
	if r.watchers == nil {
		r.watchers = map[*watcher]struct{}{}
	}
	r.watchers[w] = struct{}{}
	return w
}

// Requests returns all requests since the start or the last ResetRequests in the order of
// arrival, including those in progress.
func (r *Registry) Requests() []Request {
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	requests := make([]Request, len(r.record.entries))
	for i, e := range r.record.entries {
		requests[i] = e.request
	}
	return requests
}

// Count returns how many of Requests match.
func (r *Registry) Count(match Match) int {
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	n := 0
	for _, e := range r.record.entries {
		if match(e.request) {
			n++
		}
	}
	return n
}

// Pulls returns the number of GETs of manifests, whatever the answer.
func (r *Registry) Pulls() int { return r.Count(Kinds(KindManifestGet)) }

// ResetRequests forgets all requests so far.
func (r *Registry) ResetRequests() {
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	r.record.entries = nil
}

// Notify returns a channel that receives the next matching request, and is then closed. A
// request is matched twice: when it arrives, with Status 0, and when it is answered, just
// before the client gets the answer.
func (r *Registry) Notify(match Match) <-chan Request {
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	return r.record.watch(match).fired
}

// WaitFor waits for a matching request since the start or the last ResetRequests. Requests are
// matched as in Notify. It returns an error if ctx ends first.
func (r *Registry) WaitFor(ctx context.Context, match Match) error {
	w := r.record.watchOrSeen(match)
	if w == nil {
		return nil
	}
	select {
	case <-w.fired:
		return nil
	case <-ctx.Done():
		r.record.mu.Lock()
		defer r.record.mu.Unlock()
		delete(r.record.watchers, w)
		return fmt.Errorf("wait for a request to %s: %w", r.Host(), ctx.Err())
	}
}

// watchOrSeen returns nil if a request already matches.
func (r *recorder) watchOrSeen(match Match) *watcher {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if match(e.request) {
			return nil
		}
	}
	return r.watch(match)
}

// Match selects requests. It must not call the registry.
type Match func(Request) bool

// Any matches all requests.
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

// Answered matches requests that were answered with this status.
func Answered(status int) Match {
	return func(r Request) bool { return r.Status == status }
}

// All matches requests that all the given matches select.
func All(matches ...Match) Match {
	return func(r Request) bool {
		return !slices.ContainsFunc(matches, func(m Match) bool { return !m(r) })
	}
}

const (
	apiRoot   = "/v2/"
	tokenPath = "/token"

	// quayTokenPath is the path of quay.io's token service.
	quayTokenPath = "/v2/auth"
)

// resources are the parts of a repository with a reference, and the kinds of requests for
// them.
var resources = map[string]map[string]Kind{
	"/manifests": {
		http.MethodHead: KindManifestHead, http.MethodGet: KindManifestGet, http.MethodPut: KindManifestPut,
	},
	"/blobs":     {http.MethodHead: KindBlobHead, http.MethodGet: KindBlobGet},
	"/referrers": {http.MethodGet: KindReferrers},
}

// parse returns the method, path and headers of a request in the form of Request.
func parse(req *http.Request) Request {
	r := Request{
		At:        time.Now(),
		Method:    req.Method,
		Path:      req.URL.Path,
		Kind:      KindOther,
		Accept:    strings.Join(req.Header.Values("Accept"), ", "),
		Range:     req.Header.Get("Range") + req.Header.Get("Content-Range"),
		UserAgent: req.UserAgent(),
		Proto:     req.Proto,
		Client:    req.RemoteAddr,
		Login:     req.Header.Get("Authorization") != "",
	}
	name, ok := strings.CutPrefix(r.Path, apiRoot)
	switch {
	case r.Path == tokenPath, r.Path == quayTokenPath:
		r.Kind = KindToken
	case r.parseNamespace(req.URL.Query()):
	case r.parseBulk(req.URL.Query()):
	case !ok:
	case name == "":
		r.Kind = KindPing
	default:
		r.parseName(name, req)
	}
	return r
}

// parseName parses from the right, because a repository may be named "blobs".
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
