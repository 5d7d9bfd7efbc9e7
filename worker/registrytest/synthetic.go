package registrytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Synthetic describes a repository with very many tags. Its manifests are made on request;
// they share one layer, and can be copied.
type Synthetic struct {
	Tags     []string // see Numbered
	Distinct int      // number of different digests, assigned to the tags in turn; 0: one for each tag
}

// Numbered returns n tags: the format applied to 0 … n-1.
func Numbered(format string, n int) []string {
	tags := make([]string, n)
	for i := range tags {
		tags[i] = fmt.Sprintf(format, i)
	}
	return tags
}

// synthetic answers tags/list and manifest HEADs and GETs of its repository. It never changes.
type synthetic struct {
	tags     []string // in lexical order
	digests  []string // of the distinct manifests
	byTag    map[string]int
	byDigest map[string]int
	lives    []life // the most recent first
	base     v1.Manifest
}

// syntheticPlatform is the platform of all synthetic images.
var syntheticPlatform = &v1.Platform{OS: "linux", Architecture: "amd64"}

// AddSynthetic adds a repository with very many tags, 50,000 in 0.3 s. It refuses pushes.
// Equal ones in two registries have equal digests.
func (r *Registry) AddSynthetic(repository string, description Synthetic) error {
	image, err := Image{Layers: []Layer{{Seed: "synthetic", Size: defaultLayerSize}}}.build(repository, syntheticPlatform)
	if err != nil {
		return err
	}
	if err := r.pushBlobs(repository, image); err != nil {
		return err
	}
	base, err := image.Manifest()
	if err != nil {
		return err
	}
	s := newSynthetic(description, *base)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.synthetics[repository] = s
	return nil
}

func newSynthetic(description Synthetic, base v1.Manifest) *synthetic {
	distinct := description.Distinct
	if distinct == 0 {
		distinct = len(description.Tags)
	}
	s := &synthetic{
		tags:     slices.Sorted(slices.Values(description.Tags)),
		byTag:    make(map[string]int, len(description.Tags)),
		byDigest: make(map[string]int, distinct),
		base:     base,
	}
	for i, tag := range s.tags {
		s.byTag[tag] = i % distinct
	}
	for i := range distinct {
		dgst := describe(base.MediaType, s.payload(i)).Digest.String()
		s.digests = append(s.digests, dgst)
		s.byDigest[dgst] = i
	}
	s.lives = s.chronicle()
	return s
}

// synthetic returns the synthetic repository with this name, or nil.
func (r *Registry) synthetic(repository string) *synthetic {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.synthetics[repository]
}

func (s *synthetic) payload(i int) []byte {
	manifest := s.base
	manifest.Annotations = map[string]string{"org.opencontainers.image.revision": strconv.Itoa(i)}
	payload, err := json.Marshal(manifest)
	if err != nil {
		panic(err) // it is made of strings and numbers
	}
	return payload
}

func (s *synthetic) manifest(ref string) (dgst string, payload []byte, ok bool) {
	i, ok := s.byTag[ref]
	if !ok {
		if i, ok = s.byDigest[ref]; !ok {
			return "", nil, false
		}
	}
	return s.digests[i], s.payload(i), true
}

// serves answers requests, except for blobs, which are stored.
func (s *synthetic) serves(w http.ResponseWriter, req *http.Request, request Request) bool {
	switch request.Kind {
	case KindTags:
		s.serveTags(w, req, request.Repository)
	case KindManifestHead, KindManifestGet:
		s.serveManifest(w, request)
	case KindManifestPut:
		writeError(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "the repository is synthetic")
	default:
		return false
	}
	return true
}

func (s *synthetic) serveManifest(w http.ResponseWriter, request Request) {
	dgst, payload, ok := s.manifest(request.Reference)
	if !ok {
		writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.Header().Set("Content-Type", string(s.base.MediaType))
	w.Header().Set("Content-Length", strconv.Itoa(len(payload)))
	w.Header().Set("Docker-Content-Digest", dgst)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(payload) // of a HEAD, net/http leaves it out
}

func (s *synthetic) serveTags(w http.ResponseWriter, req *http.Request, repository string) {
	query := req.URL.Query()
	start, found := slices.BinarySearch(s.tags, query.Get("last"))
	if found {
		start++
	}
	page := s.tags[start:]
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n >= 0 && n < len(page) {
		page = page[:n]
		if n > 0 {
			next := url.Values{"n": {strconv.Itoa(n)}, "last": {page[n-1]}}
			w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, req.URL.Path, next.Encode()))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repository, "tags": page}) // the client may have disconnected
}
