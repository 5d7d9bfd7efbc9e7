package registrytest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// bulkPageLimit is the most tags that quay.io and Docker Hub list on a page.
const bulkPageLimit = 100

// BulkAPI is how a registry lists many tags at once, digests included. Its zero
// value does so without quirks. Errors come from Inject, with KindBulkList and
// Page; a repository that needs credentials is not listed.
type BulkAPI struct {
	PageLimit     int      // tags on a page, however many were asked for; 0 = 100
	WithoutDigest []string // tags that are listed without their digest
	Null          []string // tags of which only the name is told: every other field is null
	DeadTags      bool     // of quay.io: lists dead tags although only active ones were asked for
	Inactive      []string // of Docker Hub: tags that nobody has pulled for a month
	AnonymousTags int      // of Docker Hub: refuses pages beyond so many tags; 0 = none

	// AfterPage is called when a page has been read from the storage, before it
	// is sent: what it pushes moves tags from this page to the next one.
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

// Page matches requests for one page of a bulk listing, counted from 1.
func Page(page int) Match {
	return func(r Request) bool { return r.Page == page }
}

// parseBulk is false where the request is not for a bulk listing.
func (r *Request) parseBulk(query url.Values) bool {
	repository, ok := quayRepository(r.Path)
	if !ok {
		repository, ok = hubRepository(r.Path)
	}
	if !ok || r.Method != http.MethodGet {
		return false
	}
	r.Kind, r.Repository = KindBulkList, repository
	r.Page = number(query, "page", 1)
	return true
}

// number is a positive number in a query.
func number(query url.Values, key string, otherwise int) int {
	n, err := strconv.Atoi(query.Get(key))
	if err != nil || n < 1 {
		return otherwise
	}
	return n
}

// serveBulk is false where the registry has no such API.
func (r *Registry) serveBulk(w http.ResponseWriter, req *http.Request, request Request) bool {
	if request.Kind != KindBulkList {
		return false
	}
	_, isQuay := quayRepository(request.Path)
	switch {
	case isQuay && r.settings.quayAPI != nil:
		r.serveQuay(w, req, request)
	case !isQuay && r.settings.hubAPI != nil:
		r.serveHub(w, req, request)
	default:
		return false
	}
	return true
}

// private says whether strangers may read nothing.
func (r *Registry) private() bool {
	return r.settings.basicAuth != nil || r.settings.tokenAuth != nil && !r.settings.tokenAuth.Anonymous
}

// page cuts a page out of lives, and says whether there is another one.
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
	children  []v1.Descriptor // of an index; else the one image, with its platform
}

// row reads what a tag names. What is gone, as that of a dead tag may be, is
// left out.
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

// layersSize is the size that both APIs tell of an image; 0 for what is none.
func layersSize(payload []byte) int64 {
	var image contents
	_ = json.Unmarshal(payload, &image) // has no layers where it fails
	sum := int64(0)
	for _, layer := range image.Layers {
		sum += layer.Size
	}
	return sum
}

// platformOf reads an image's configuration; what is none has no platform.
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

// orNull is nil for an empty text.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// nulls makes every field null but the name.
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
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}

// cutAround is what stands between a prefix and a suffix.
func cutAround(s, prefix, suffix string) (string, bool) {
	s, before := strings.CutPrefix(s, prefix)
	s, after := strings.CutSuffix(s, suffix)
	return s, before && after && s != ""
}
