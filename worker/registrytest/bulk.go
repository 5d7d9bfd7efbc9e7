package registrytest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// bulkPageLimit is the most tags that quay.io and Docker Hub list on a page.
const bulkPageLimit = 100

// BulkAPI configures an API that lists many tags at once, with their digests. The zero value
// has no quirks. Errors come from Inject, with KindBulkList and Page. A repository that needs
// credentials is not listed.
type BulkAPI struct {
	PageLimit     int      // tags on a page, however many are requested; 0: 100
	WithoutDigest []string // tags without their digest
	Null          []string // tags with only a name: all other fields are null
	DeadTags      bool     // quay.io: lists dead tags although only active ones are requested
	Inactive      []string // Docker Hub: tags without a pull for a month
	AnonymousTags int      // Docker Hub refuses pages after this number of tags; 0: none

	// AfterPage is called after a page has been read from the storage and before it is sent:
	// pushes then move tags from this page to the next one.
	AfterPage func(repository string, page int)
}

// WithQuayAPI lists tags at /api/v1/repository/NAME/tag/ as quay.io does.
func WithQuayAPI(api BulkAPI) Option {
	return func(s *settings) { s.quayAPI = &api }
}

// WithHubAPI lists tags at /v2/namespaces/NAMESPACE/repositories/NAME/tags and
// /v2/repositories/NAMESPACE/NAME/tags as hub.docker.com does.
func WithHubAPI(api BulkAPI) Option {
	return func(s *settings) { s.hubAPI = &api }
}

// Page matches requests for one page of a bulk listing. Pages are counted from 1.
func Page(page int) Match {
	return func(r Request) bool { return r.Page == page }
}

// parseBulk returns false if the request is not for a bulk listing.
func (r *Request) parseBulk(query url.Values) bool {
	repository, ok := quayRepository(r.Path)
	if !ok {
		repository, ok = hubRepository(r.Path)
	}
	if !ok {
		repository, ok = harborRepository(r.Path)
	}
	if !ok || r.Method != http.MethodGet {
		return false
	}
	r.Kind, r.Repository = KindBulkList, repository
	r.Page = number(query, "page", 1)
	return true
}

// number returns a positive number in a query.
func number(query url.Values, key string, otherwise int) int {
	n, err := strconv.Atoi(query.Get(key))
	if err != nil || n < 1 {
		return otherwise
	}
	return n
}

// serveBulk returns false if the registry has no such API.
func (r *Registry) serveBulk(w http.ResponseWriter, req *http.Request, request Request) bool {
	if request.Kind != KindBulkList {
		return false
	}
	_, isQuay := quayRepository(request.Path)
	_, isHarbor := harborRepository(request.Path)
	switch {
	case isHarbor && r.settings.harborAPI != nil:
		r.serveHarbor(w, req, request)
	case isHarbor:
		return false
	case isQuay && r.settings.quayAPI != nil:
		r.serveQuay(w, req, request)
	case !isQuay && r.settings.hubAPI != nil:
		r.serveHub(w, req, request)
	default:
		return false
	}
	return true
}

// private reports whether reading needs credentials.
func (r *Registry) private() bool {
	return r.settings.basicAuth != nil || r.settings.tokenAuth != nil && !r.settings.tokenAuth.Anonymous
}

// page returns a page of lives, and whether there is another one.
func (api *BulkAPI) page(lives []life, page, asked int) (cut []life, more bool) {
	limit := min(asked, bulkPageLimit)
	if api.PageLimit > 0 {
		limit = min(limit, api.PageLimit)
	}
	start := min((page-1)*limit, len(lives))
	end := min(start+limit, len(lives))
	return lives[start:end], end < len(lives)
}

func (api *BulkAPI) read(repository string, page int) {
	if api.AfterPage != nil {
		api.AfterPage(repository, page)
	}
}

// row is a tag on a page.
type row struct {
	life
	mediaType string
	index     bool
	size      int64
	children  []v1.Descriptor // of an index; otherwise the image, with its platform
}

// row reads the manifest of a tag. Missing parts, as of a dead tag, are left out.
func (r *Registry) row(repository string, l life) row {
	named := l.digest
	if named == "" {
		named = l.tag
	}
	dgst, payload, err := r.manifest(repository, named)
	if err != nil {
		return row{life: l}
	}
	l.digest = dgst
	found := row{life: l}
	var below struct {
		MediaType string `json:"mediaType"`
		contents
	}
	if json.Unmarshal(payload, &below) != nil {
		return found
	}
	found.mediaType = below.MediaType
	if found.index = below.Manifests != nil; found.index {
		found.children = slices.DeleteFunc(below.Manifests, func(d v1.Descriptor) bool { return d.Platform == nil })
		for i, child := range found.children {
			_, payload, _ := r.manifest(repository, child.Digest.String())
			found.children[i].Size = layersSize(payload)
		}
		return found
	}
	image := describe("", payload)
	image.Size = layersSize(payload)
	image.Platform = r.platformOf(repository, below.Config)
	found.size, found.children = image.Size, []v1.Descriptor{image}
	return found
}

// layersSize returns the size of an image in both APIs; 0 for other manifests.
func layersSize(payload []byte) int64 {
	var image contents
	_ = json.Unmarshal(payload, &image) // no layers if it fails
	sum := int64(0)
	for _, layer := range image.Layers {
		sum += layer.Size
	}
	return sum
}

// platformOf returns the platform in an image's configuration, if it is one.
func (r *Registry) platformOf(repository string, config *v1.Descriptor) *v1.Platform {
	if r.synthetic(repository) != nil {
		return syntheticPlatform
	}
	repo, err := r.repository(repository)
	if err != nil || config == nil {
		return &v1.Platform{}
	}
	ctx := context.Background()
	content, err := repo.Blobs(ctx).Get(ctx, digest.Digest(config.Digest.String()))
	var file v1.ConfigFile
	if err != nil || json.Unmarshal(content, &file) != nil {
		return &v1.Platform{}
	}
	return &v1.Platform{OS: file.OS, Architecture: file.Architecture, Variant: file.Variant}
}

// orNull returns nil for "".
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// nulls sets all fields to null except the name.
func nulls(fields map[string]any) map[string]any {
	for field := range fields {
		if field != "name" {
			fields[field] = nil
		}
	}
	return fields
}

func writeJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // the client may have disconnected
}

// cutAround returns the text between a prefix and a suffix.
func cutAround(s, prefix, suffix string) (string, bool) {
	s, before := strings.CutPrefix(s, prefix)
	s, after := strings.CutSuffix(s, suffix)
	return s, before && after && s != ""
}

// The path of quay.io's tag listing, and its page sizes (quay/quay, endpoints/api/tag.py).
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
		// The answer does not reveal whether a repository is private or does not exist.
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

// quayTag is a tag as quay.io lists it: end_ts and expiration are only present if the tag
// ends.
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

// The paths of hub.docker.com's tag listing, the second without "namespaces",
// and the default size of a page
// (docs.docker.com/reference/api/hub/latest).
const (
	hubNamespaces   = "/v2/namespaces/"
	hubRepositories = "/v2/repositories/"
	hubSuffix       = "/tags"
	hubDefaultSize  = 10
)

// hubDate is the format of times on hub.docker.com.
const hubDate = "2006-01-02T15:04:05.000000Z"

// hubAnonymousMessage is the answer of hub.docker.com since August 2026 to requests without an
// account for pages after 1,000 tags.
const hubAnonymousMessage = "pagination offset too large for anonymous requests; sign in to page further"
