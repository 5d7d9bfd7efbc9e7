package registrytest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func hubRepository(path string) (string, bool) {
	path = strings.TrimSuffix(path, "/")
	if name, ok := cutAround(path, hubNamespaces, hubSuffix); ok {
		namespace, name, ok := strings.Cut(name, "/repositories/")
		return namespace + "/" + name, ok
	}
	name, ok := cutAround(path, hubRepositories, hubSuffix)
	return name, ok && strings.Contains(name, "/")
}

// serveHub answers as hub.docker.com does.
func (r *Registry) serveHub(w http.ResponseWriter, req *http.Request, request Request) {
	api, size := r.settings.hubAPI, number(req.URL.Query(), "page_size", hubDefaultSize)
	if api.AnonymousTags > 0 && (request.Page-1)*size >= api.AnonymousTags {
		hubError(w, http.StatusForbidden, hubAnonymousMessage)
		return
	}
	lives, err := r.chronicle(request.Repository, false)
	page, more := api.page(lives, request.Page, size)
	if err != nil || r.private() || request.Page > 1 && len(page) == 0 {
		hubError(w, http.StatusNotFound, "object not found")
		return
	}
	results := []map[string]any{}
	for _, l := range page {
		results = append(results, api.hubTag(r.row(request.Repository, l)))
	}
	api.read(request.Repository, request.Page)
	answer := map[string]any{"count": len(lives), "next": nil, "previous": nil, "results": results}
	link := func(page int) string {
		query := url.Values{"page": {fmt.Sprint(page)}, "page_size": {fmt.Sprint(size)}}
		return "https://" + req.Host + req.URL.EscapedPath() + "?" + query.Encode()
	}
	if more {
		answer["next"] = link(request.Page + 1)
	}
	if request.Page > 1 {
		answer["previous"] = link(request.Page - 1)
	}
	writeJSON(w, http.StatusOK, answer)
}

func hubError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]any{"message": message, "errinfo": map[string]any{}})
}

// hubTag is a tag as hub.docker.com lists it.
func (api *BulkAPI) hubTag(t row) map[string]any {
	pushed, status := t.start.UTC().Format(hubDate), "active"
	if slices.Contains(api.Inactive, t.tag) {
		status = "inactive"
	}
	images, size := []map[string]any{}, int64(0)
	for _, child := range t.children {
		images = append(images, hubImage(child, status, pushed))
		size += child.Size
	}
	fields := map[string]any{
		"id":              t.number,
		"name":            t.tag,
		"images":          images,
		"creator":         1,
		"last_updated":    pushed,
		"last_updater":    1,
		"repository":      1,
		"full_size":       size,
		"v2":              true,
		"tag_status":      status,
		"tag_last_pulled": nil,
		"tag_last_pushed": pushed,
		"media_type":      t.mediaType,
		"content_type":    "image",
		"digest":          t.digest,
	}
	if slices.Contains(api.WithoutDigest, t.tag) {
		delete(fields, "digest")
	}
	if slices.Contains(api.Null, t.tag) {
		return nulls(fields)
	}
	return fields
}

func hubImage(image v1.Descriptor, status, pushed string) map[string]any {
	return map[string]any{
		"architecture": orNull(image.Platform.Architecture),
		"features":     "",
		"variant":      orNull(image.Platform.Variant),
		"digest":       image.Digest.String(),
		"os":           orNull(image.Platform.OS),
		"os_features":  "",
		"os_version":   orNull(image.Platform.OSVersion),
		"size":         image.Size,
		"status":       status,
		"last_pulled":  nil,
		"last_pushed":  pushed,
	}
}
