package registrytest

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// serve handles all requests: it records them, applies faults and limits, authorizes, and
// answers.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	r.serving.RLock()
	defer r.serving.RUnlock()
	if req.Context().Err() != nil { // it arrived during Stop
		panic(http.ErrAbortHandler)
	}
	request := parse(req)
	entry := r.record.arrived(request)
	rw := &responseWriter{ResponseWriter: w, registry: r, entry: entry}
	pause(req.Context(), r.settings.latency)

	fault := r.faults.take(request)
	switch {
	case fault.answers(rw, req):
	case fault.TruncateBody:
		truncate(rw, func(w http.ResponseWriter) { r.answer(w, req, request) })
	case fault.CutUpload > 0:
		cutUpload(rw, req, fault.CutUpload, func(w http.ResponseWriter, req *http.Request) { r.answer(w, req, request) })
	case fault.Lose:
		r.answer(httptest.NewRecorder(), req, request)
		reset(rw)
	case fault.Change != nil:
		fault.change(rw, req, func(w http.ResponseWriter) { r.answer(w, req, request) })
	case fault.Drip != nil:
		drip(rw, req, fault.Drip, func(w http.ResponseWriter) { r.answer(w, req, request) })
	default:
		r.answer(rw, req, request)
	}
}

// answer answers a request that no fault affects.
func (r *Registry) answer(w http.ResponseWriter, req *http.Request, request Request) {
	if r.settings.nginx != nil && r.settings.nginx.refuses(w, req, request) {
		return
	}
	if r.tokens != nil && request.Kind == KindToken {
		r.tokens.serve(w, req)
		return
	}
	if r.refusesBody(w, req, request) {
		return
	}
	if r.settings.uploads != nil {
		w, req = r.settings.uploads.follow(w, req)
	}
	for _, limit := range r.settings.requestLimiters {
		if limit.refuses(w, request) {
			return
		}
	}
	if r.serveHarborDeletion(w, req) || r.serveBulk(w, req, request) || r.serveNamespace(w, req, request) || r.unauthorized(w, req, request) || r.serveDeletion(w, request) {
		return
	}
	if status := r.settings.missingStatus; status != 0 && missable(request) && !r.exists(request.Repository) {
		writeError(w, status, "DENIED", "requested access to the resource is denied")
		return
	}
	if r.pulls != nil && r.pulls.refuses(w, request) {
		return
	}
	if r.settings.headAfterGet && r.got.denies(request) {
		writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	if request.Kind == KindManifestPut && r.settings.refuses(req) {
		writeError(w, r.settings.refusedStatus, "MANIFEST_INVALID", "manifest invalid")
		return
	}
	if r.settings.noRanges {
		req.Header.Del("Range")
	}
	if request.Kind == KindTags && r.settings.tagPage > 0 {
		req = shortPage(req, r.settings.tagPage)
	}
	if r.settings.referrersAPI {
		if request.Kind == KindReferrers {
			r.serveReferrers(w, req, request)
			return
		}
		w = &subjectWriter{ResponseWriter: w, registry: r, request: request}
	}
	if r.settings.oddManifests && r.odd.serves(w, req, request) {
		return
	}
	if s := r.synthetic(request.Repository); s != nil && s.serves(w, req, request) {
		return
	}
	r.distribution(w, req, request)
}

// distribution answers a request as the real registry does, except for what a liar changes.
func (r *Registry) distribution(w http.ResponseWriter, req *http.Request, request Request) {
	if l := r.liar(request.Repository); l.names != nil && request.Kind == KindTags {
		l.lie(w, func(w http.ResponseWriter) { r.app.ServeHTTP(w, req) })
		return
	}
	if request.Kind == KindBlobGet {
		r.serveBlob(w, req)
		return
	}
	r.app.ServeHTTP(w, r.unlie(req))
}

// refusesBody answers a request whose body is too large, or a way to send a blob that is not
// supported.
func (r *Registry) refusesBody(w http.ResponseWriter, req *http.Request, request Request) bool {
	switch {
	case req.Method == http.MethodPut && request.Kind == KindBlobUpload && r.settings.emptyEnd != 0 && isLarger(req, 0):
		writeError(w, r.settings.emptyEnd, "BLOB_UPLOAD_INVALID", "blob upload invalid")
	case r.settings.bodyLimit > 0 && isLarger(req, r.settings.bodyLimit):
		http.Error(w, "<html><head><title>413 Request Entity Too Large</title></head></html>", http.StatusRequestEntityTooLarge)
	case req.Method == http.MethodPatch && r.settings.noPatch != 0:
		writeError(w, r.settings.noPatch, "UNSUPPORTED", "the operation is unsupported")
	default:
		return false
	}
	return true
}

// isLarger reports whether the body of a request is larger, and leaves the body to be read.
func isLarger(req *http.Request, limit int64) bool {
	if req.ContentLength >= 0 {
		return req.ContentLength > limit
	}
	body, _ := io.ReadAll(io.LimitReader(req.Body, limit+1)) // an error is that of the client
	req.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), req.Body), req.Body}
	return int64(len(body)) > limit
}

// responseWriter records the status before the client can read it.
type responseWriter struct {
	http.ResponseWriter
	registry *Registry
	entry    *entry
	wrote    bool
}

// Unwrap lets http.ResponseController flush and hijack the connection.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if !w.wrote {
		w.wrote = true
		if w.registry.settings.noDigestHeader && w.entry.request.Kind == KindManifestHead {
			w.Header().Del("Docker-Content-Digest")
			w.Header().Del("Etag") // it also contains the digest
		}
		w.registry.pushed(w.entry.request, status, w.Header().Get("Docker-Content-Digest"))
		w.registry.got.answered(w.entry.request, status)
		w.registry.record.answered(w.entry, status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// got has the references that were answered to GET.
type got struct{ references sync.Map }

func (g *got) key(request Request) string { return request.Repository + "@" + request.Reference }

// denies reports whether a HEAD is answered with 404.
func (g *got) denies(request Request) bool {
	if request.Kind != KindManifestHead {
		return false
	}
	_, known := g.references.Load(g.key(request))
	return !known
}

func (g *got) answered(request Request, status int) {
	if request.Kind == KindManifestGet && status == http.StatusOK {
		g.references.Store(g.key(request), true)
	}
}

// refuses reports whether a manifest contains the refused media type. It leaves the request
// unchanged.
func (s *settings) refuses(req *http.Request) bool {
	if s.refusedType == "" {
		return false
	}
	body, _ := io.ReadAll(req.Body) // a client that has disconnected gets no answer
	req.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.Contains(body, []byte(`"`+s.refusedType+`"`))
}

// shortPage returns a request for at most limit tags.
func shortPage(req *http.Request, limit int) *http.Request {
	query := req.URL.Query()
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n <= limit {
		return req
	}
	query.Set("n", strconv.Itoa(limit))
	short := req.Clone(req.Context())
	short.URL.RawQuery = query.Encode()
	return short
}

// Answers of Docker Hub and quay.io to too many requests.
const (
	pullLimitMessage = "You have reached your pull rate limit. You may increase the limit by authenticating " +
		"and upgrading: https://www.docker.com/increase-rate-limit"
	requestLimitPage = "<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n" +
		"<body>\r\n<center><h1>429 Too Many Requests</h1></center>\r\n</body>\r\n</html>\r\n"
)

// rateLimitSource is the value of docker-ratelimit-source: an address reserved for
// documentation.
const rateLimitSource = "192.0.2.1"

// pullLimit is an exact sliding window. It remembers each pull.
type pullLimit struct {
	limit  int
	window time.Duration
	now    func() time.Time
	silent bool // without headers

	mu    sync.Mutex
	pulls []time.Time // those in the window, oldest first
}

// SpendPulls takes n pulls off the limit of WithPullLimit, like another client behind the same
// address. It panics without that option.
func (r *Registry) SpendPulls(n int) {
	r.pulls.mu.Lock()
	defer r.pulls.mu.Unlock()
	r.pulls.spend(n)
}

func (p *pullLimit) spend(n int) {
	p.pulls = append(p.pulls, slices.Repeat([]time.Time{p.now()}, n)...)
}

// refuses counts a pull, or answers that the limit is reached.
func (p *pullLimit) refuses(w http.ResponseWriter, request Request) bool {
	if request.Kind != KindManifestHead && request.Kind != KindManifestGet {
		return false
	}
	refused, remaining := p.take(request.Kind == KindManifestGet)
	if !p.silent {
		seconds := int(math.Ceil(p.window.Seconds()))
		w.Header().Set("ratelimit-limit", fmt.Sprintf("%d;w=%d", p.limit, seconds))
		w.Header().Set("ratelimit-remaining", fmt.Sprintf("%d;w=%d", remaining, seconds))
		w.Header().Set("docker-ratelimit-source", rateLimitSource)
	}
	if refused {
		writeError(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", pullLimitMessage)
	}
	return refused
}

func (p *pullLimit) take(pull bool) (refused bool, remaining int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := p.now().Add(-p.window)
	p.pulls = slices.DeleteFunc(p.pulls, func(at time.Time) bool { return !at.After(start) })
	if pull {
		refused = len(p.pulls) >= p.limit
		if !refused {
			p.spend(1)
		}
	}
	return refused, max(0, p.limit-len(p.pulls))
}

// requestLimiter limits the rate of requests of some kinds.
type requestLimiter struct {
	limiter *rate.Limiter
	kinds   []Kind // empty: all
}

func (l requestLimiter) refuses(w http.ResponseWriter, request Request) bool {
	if len(l.kinds) > 0 && !slices.Contains(l.kinds, request.Kind) || l.limiter.Allow() {
		return false
	}
	refuseRequest(w)
	return true
}

// refuseRequest answers as quay.io's nginx does.
func refuseRequest(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = io.WriteString(w, requestLimitPage) // the client may have disconnected
}
