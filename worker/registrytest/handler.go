package registrytest

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// serve is the way of every request: record, fault, limit, authorize, answer.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	r.serving.RLock()
	defer r.serving.RUnlock()
	if req.Context().Err() != nil { // it came in while Stop was closing
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
	case fault.Drip != nil:
		drip(rw, req, fault.Drip, func(w http.ResponseWriter) { r.answer(w, req, request) })
	default:
		r.answer(rw, req, request)
	}
}

// answer is what a registry without faults does.
func (r *Registry) answer(w http.ResponseWriter, req *http.Request, request Request) {
	if r.tokens != nil && request.Kind == KindToken {
		r.tokens.serve(w, req)
		return
	}
	if r.settings.bodyLimit > 0 && isLarger(req, r.settings.bodyLimit) {
		http.Error(w, "<html><head><title>413 Request Entity Too Large</title></head></html>", http.StatusRequestEntityTooLarge)
		return
	}
	if req.Method == http.MethodPatch && r.settings.noPatch != 0 {
		writeError(w, r.settings.noPatch, "UNSUPPORTED", "the operation is unsupported")
		return
	}
	for _, limit := range r.settings.requestLimiters {
		if limit.refuses(w, request) {
			return
		}
	}
	if r.serveBulk(w, req, request) || r.unauthorized(w, req, request) {
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
	if l := r.liar(request.Repository); l.names != nil && request.Kind == KindTags {
		l.lie(w, func(w http.ResponseWriter) { r.app.ServeHTTP(w, req) })
		return
	}
	r.app.ServeHTTP(w, r.unlie(req))
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

// responseWriter tells the record the status before the client can know it.
type responseWriter struct {
	http.ResponseWriter
	registry *Registry
	entry    *entry
	wrote    bool
}

// Unwrap lets http.ResponseController flush and take over the connection.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if !w.wrote {
		w.wrote = true
		if w.registry.settings.noDigestHeader && w.entry.request.Kind == KindManifestHead {
			w.Header().Del("Docker-Content-Digest")
			w.Header().Del("Etag") // distribution puts the digest there, too
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

// got are the references that were answered to GET.
type got struct{ references sync.Map }

func (g *got) key(request Request) string { return request.Repository + "@" + request.Reference }

// denies tells whether a HEAD is answered as if there were no such manifest.
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

// refuses tells whether a manifest is refused for a media type in it. It leaves the
// request as it was.
func (s *settings) refuses(req *http.Request) bool {
	if s.refusedType == "" {
		return false
	}
	body, _ := io.ReadAll(req.Body) // a client that is gone gets no answer
	req.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.Contains(body, []byte(`"`+s.refusedType+`"`))
}

// shortPage asks for at most limit tags, whatever the client asked for.
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

// What Docker Hub and quay.io say to those who ask too much.
const (
	pullLimitMessage = "You have reached your pull rate limit. You may increase the limit by authenticating " +
		"and upgrading: https://www.docker.com/increase-rate-limit"
	requestLimitPage = "<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n" +
		"<body>\r\n<center><h1>429 Too Many Requests</h1></center>\r\n</body>\r\n</html>\r\n"
)

// rateLimitSource is what docker-ratelimit-source says: an address reserved
// for documentation.
const rateLimitSource = "192.0.2.1"

// pullLimit is a sliding window: exact, at the price of remembering each pull.
type pullLimit struct {
	limit  int
	window time.Duration
	now    func() time.Time
	silent bool // without headers

	mu    sync.Mutex
	pulls []time.Time // those in the window, oldest first
}

// SpendPulls takes n pulls off the limit of WithPullLimit, as somebody else
// behind the same address does. It panics without that option.
func (r *Registry) SpendPulls(n int) {
	r.pulls.mu.Lock()
	defer r.pulls.mu.Unlock()
	r.pulls.spend(n)
}

func (p *pullLimit) spend(n int) {
	p.pulls = append(p.pulls, slices.Repeat([]time.Time{p.now()}, n)...)
}

// refuses counts a pull, or answers that there are none left.
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

// requestLimiter limits requests of some kinds a second.
type requestLimiter struct {
	limiter *rate.Limiter
	kinds   []Kind // empty: all
}

func (l requestLimiter) refuses(w http.ResponseWriter, request Request) bool {
	if len(l.kinds) > 0 && !slices.Contains(l.kinds, request.Kind) || l.limiter.Allow() {
		return false
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = io.WriteString(w, requestLimitPage) // the client may be gone
	return true
}
