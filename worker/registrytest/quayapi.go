package registrytest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// The path of quay.io's tag listing, and what it does with its limit (quay/quay,
// endpoints/api/tag.py).
const (
	quayPrefix       = "/api/v1/repository/"
	quaySuffix       = "/tag/"
	quayDefaultLimit = 50
)

// quayDate is RFC 2822 as Python's email.utils.formatdate writes it.
const quayDate = "Mon, 02 Jan 2006 15:04:05 -0000"

func quayRepository(path string) (string, bool) { return cutAround(path, quayPrefix, quaySuffix) }

// serveQuay answers as quay.io does.
func (r *Registry) serveQuay(w http.ResponseWriter, req *http.Request, request Request) {
	api, query := r.settings.quayAPI, req.URL.Query()
	active, _ := strconv.ParseBool(query.Get("onlyActiveTags")) // absent is false
	lives, err := r.chronicle(request.Repository, api.DeadTags || !active)
	if err != nil || r.private() {
		// Strangers are not told whether a repository is private or does not exist.
		writeJSON(w, http.StatusUnauthorized, map[string]any{
			"status": http.StatusUnauthorized, "title": "insufficient_scope",
			"error_type": "insufficient_scope", "error_message": "Unauthorized",
		})
		return
	}
	page, more := api.page(lives, request.Page, number(query, "limit", quayDefaultLimit))
	tags := []map[string]any{}
	for _, l := range page {
		tags = append(tags, api.quayTag(r.row(request.Repository, l)))
	}
	api.read(request.Repository, request.Page)
	writeJSON(w, http.StatusOK, map[string]any{"tags": tags, "page": request.Page, "has_additional": more})
}

// quayTag is a tag as quay.io shows it: end_ts and expiration only where there
// is an end.
func (api *BulkAPI) quayTag(t row) map[string]any {
	fields := map[string]any{
		"name":             t.tag,
		"reversion":        false,
		"start_ts":         t.start.Unix(),
		"last_modified":    t.start.UTC().Format(quayDate),
		"manifest_digest":  t.digest,
		"is_manifest_list": t.index,
		"size":             t.size,
	}
	if t.index {
		fields["size"] = nil
	}
	if !t.end.IsZero() {
		fields["end_ts"], fields["expiration"] = t.end.Unix(), t.end.UTC().Format(quayDate)
	}
	if slices.Contains(api.WithoutDigest, t.tag) {
		delete(fields, "manifest_digest")
	}
	if slices.Contains(api.Null, t.tag) {
		fields["end_ts"], fields["expiration"] = time.Time{}, "" // to be null
		return nulls(fields)
	}
	return fields
}
