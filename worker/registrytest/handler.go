package registrytest

import "net/http"

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
