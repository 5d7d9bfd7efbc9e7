package registrytest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// catalogPath is the path of the OCI API's listing of repositories.
const catalogPath = "/v2/_catalog"

// namespaceOf returns the namespace whose repositories a path lists, with the API of Quay,
// Docker Hub or Harbor; "" for _catalog.
func namespaceOf(path string, query url.Values) (namespace string, ok bool) {
	if path == catalogPath {
		return "", true
	}
	if path == strings.TrimSuffix(quayPrefix, "/") {
		return query.Get("namespace"), true
	}
	for _, prefix := range []string{hubNamespaces, harborPrefix} {
		if namespace, ok := cutAround(path, prefix, "/repositories"); ok && !strings.Contains(namespace, "/") {
			return namespace, true
		}
	}
	return "", false
}

// parseNamespace returns false if the request is not for a listing of repositories.
func (r *Request) parseNamespace(query url.Values) bool {
	namespace, ok := namespaceOf(r.Path, query)
	if !ok || r.Method != http.MethodGet {
		return false
	}
	r.Kind, r.Repository, r.Page = KindRepositories, namespace, number(query, "page", 1)
	return true
}

// serveNamespace lists repositories as Quay (endpoints/api/repository.py), Docker Hub or Harbor
// do. It returns false if the registry has no such API.
func (r *Registry) serveNamespace(w http.ResponseWriter, req *http.Request, request Request) bool {
	if request.Kind != KindRepositories || request.Path == catalogPath {
		return false
	}
	all, err := r.Repositories()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return true
	}
	names := slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, request.Repository+"/") })
	query := req.URL.Query()
	switch {
	case r.settings.quayAPI != nil && strings.HasPrefix(request.Path, "/api/v1/"):
		r.serveQuayNamespace(w, query, names)
	case r.settings.hubAPI != nil && strings.HasPrefix(request.Path, hubNamespaces):
		size := r.settings.hubAPI.limit(number(query, "page_size", hubDefaultSize))
		start := (request.Page - 1) * size
		if start > 0 && start >= len(names) {
			writeJSON(w, http.StatusNotFound, map[string]any{"message": "page not found"})
			return true
		}
		page, more := cutNames(names, start, size)
		rows := []map[string]any{}
		for _, name := range page {
			namespace, below, _ := strings.Cut(name, "/")
			rows = append(rows, map[string]any{"namespace": namespace, "name": below, "repository_type": "image", "status": 1, "is_private": false})
		}
		answer := map[string]any{"count": len(names), "next": nil, "previous": nil, "results": rows}
		if more {
			answer["next"] = fmt.Sprintf("https://hub.docker.com%s?page=%d&page_size=%d", request.Path, request.Page+1, size)
		}
		writeJSON(w, http.StatusOK, answer)
	case r.settings.harborAPI != nil && strings.HasPrefix(request.Path, harborPrefix):
		size := r.settings.harborAPI.limit(number(query, "page_size", harborDefaultSize))
		page, more := cutNames(names, (request.Page-1)*size, size)
		rows := []map[string]any{}
		for _, name := range page {
			rows = append(rows, map[string]any{"id": 1, "name": name, "artifact_count": 1})
		}
		if more {
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d&page_size=%d>; rel="next"`, request.Path, request.Page+1, size))
		}
		w.Header().Set("X-Total-Count", strconv.Itoa(len(names)))
		writeJSON(w, http.StatusOK, rows)
	default:
		return false
	}
	return true
}

// serveQuayNamespace sends a page as Quay does, which names the next one by a token.
func (r *Registry) serveQuayNamespace(w http.ResponseWriter, query url.Values, names []string) {
	start := 0
	if token, err := base64.URLEncoding.DecodeString(query.Get("next_page")); err == nil {
		start, _ = strconv.Atoi(string(token))
	}
	page, more := cutNames(names, start, r.settings.quayAPI.limit(bulkPageLimit))
	rows := []map[string]any{}
	for _, name := range page {
		namespace, below, _ := strings.Cut(name, "/")
		if query.Get("public") == "true" && !r.private() {
			rows = append(rows, map[string]any{"namespace": namespace, "name": below, "kind": "image", "is_public": true, "state": "NORMAL", "description": nil})
		}
	}
	answer := map[string]any{"repositories": rows}
	if more {
		answer["next_page"] = base64.URLEncoding.EncodeToString([]byte(strconv.Itoa(start + len(page))))
	}
	writeJSON(w, http.StatusOK, answer)
}

// limit returns how many repositories a page has.
func (api *BulkAPI) limit(asked int) int {
	if api.PageLimit > 0 {
		return min(asked, api.PageLimit)
	}
	return min(asked, bulkPageLimit)
}

func cutNames(names []string, start, size int) (page []string, more bool) {
	start = min(start, len(names))
	end := min(start+size, len(names))
	return names[start:end], end < len(names)
}
