package registrytest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// LongTag is a tag of 128 characters, the maximum.
var LongTag = "v1." + strings.Repeat("0", 125)

// Media types of Helm and cosign.
const (
	mediaTypeHelmConfig = types.MediaType("application/vnd.cncf.helm.config.v1+json")
	mediaTypeHelmChart  = types.MediaType("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
	mediaTypeCosign     = types.MediaType("application/vnd.dev.cosign.simplesigning.v1+json")
	mediaTypeCache      = types.MediaType("application/vnd.buildkit.cacheconfig.v0")
	mediaTypeEmpty      = types.MediaType("application/vnd.oci.empty.v1+json")
)

// emptyBlob is the content of the specification's empty descriptor.
var emptyBlob = []byte("{}")

// PushChart stores a Helm chart under its version, as `helm push` does.
func (r *Registry) PushChart(repository, version string) (string, error) {
	name := repository[strings.LastIndex(repository, "/")+1:]
	config, err := json.Marshal(map[string]string{"name": name, "version": version, "apiVersion": "v2"})
	if err != nil {
		return "", err
	}
	layer, err := Layer{Seed: repository + " " + version, Size: defaultLayerSize}.build(false)
	if err != nil {
		return "", err
	}
	chart, err := r.pushLayer(repository, layer)
	if err != nil {
		return "", err
	}
	chart.MediaType = mediaTypeHelmChart
	manifest, err := r.pushJSON(repository, version, types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        describe(mediaTypeHelmConfig, config),
		Layers:        []v1.Descriptor{chart},
		Annotations:   map[string]string{"org.opencontainers.image.title": name, "org.opencontainers.image.version": version},
	}, config)
	return manifest.Digest.String(), err
}

// Cache describes a build cache that BuildKit exports to a registry.
type Cache struct {
	Docker bool // a Docker list of Docker layers, as from older versions
	Layers []Layer
	Type   types.MediaType // replaces the media type of the layers
	Images []Image         // additional entries
}

// PushCache stores a build cache as BuildKit does: an index of layers and of a
// configuration, all of them blobs.
func (r *Registry) PushCache(repository, tag string, cache Cache) (string, error) {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	if cache.Docker {
		index.MediaType = types.DockerManifestList
	}
	for _, image := range cache.Images {
		described, err := r.pushImage(repository, "", image)
		if err != nil {
			return "", err
		}
		index.Manifests = append(index.Manifests, described)
	}
	for _, layer := range cache.Layers {
		built, err := layer.build(cache.Docker)
		if err != nil {
			return "", err
		}
		diffID, err := built.DiffID()
		if err != nil {
			return "", err
		}
		described, err := r.pushLayer(repository, built)
		if err != nil {
			return "", err
		}
		described.MediaType = cmp.Or(cache.Type, described.MediaType)
		described.Annotations = map[string]string{"containerd.io/uncompressed": diffID.String()}
		index.Manifests = append(index.Manifests, described)
	}
	config := []byte(`{"layers":[],"records":[]}`)
	index.Manifests = append(index.Manifests, describe(mediaTypeCache, config))
	manifest, err := r.pushJSON(repository, tag, index.MediaType, index, config)
	return manifest.Digest.String(), err
}

// SignatureTag returns the tag of cosign's older scheme: sha256-HEX.sig.
func SignatureTag(dgst string) string { return fallbackTag(dgst) + ".sig" }

// PushSignature signs a digest of the repository as in cosign's older scheme, under
// SignatureTag. The signature is invalid.
func (r *Registry) PushSignature(repository, dgst string) (string, error) {
	payload, err := json.Marshal(map[string]any{"critical": map[string]any{
		"identity": map[string]string{"docker-reference": repository},
		"image":    map[string]string{"docker-manifest-digest": dgst},
		"type":     "cosign container image signature",
	}})
	if err != nil {
		return "", err
	}
	image, err := compose(false, v1.ConfigFile{}, mutate.Addendum{
		Layer:       static.NewLayer(payload, mediaTypeCosign),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": "bm90IGEgc2lnbmF0dXJl"},
	})
	if err != nil {
		return "", err
	}
	manifest, err := r.store(repository, SignatureTag(dgst), image)
	return manifest.Digest.String(), err
}

// PushReferrer stores an artifact whose subject is a digest of the repository. It lists it
// under the tag sha256-HEX, unless the registry has the referrers API.
func (r *Registry) PushReferrer(repository, dgst, artifactType string) (string, error) {
	payload, err := r.Manifest(repository, dgst)
	if err != nil {
		return "", err
	}
	var subject struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	if err := json.Unmarshal(payload, &subject); err != nil {
		return "", fmt.Errorf("read %s in %s: %w", dgst, repository, err)
	}
	described := describe(subject.MediaType, payload)
	artifact, err := r.pushJSON(repository, "", types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        describe(mediaTypeEmpty, emptyBlob),
		Layers:        []v1.Descriptor{describe(mediaTypeEmpty, emptyBlob)},
		Subject:       &described,
		ArtifactType:  artifactType,
	}, emptyBlob)
	if err != nil {
		return "", err
	}
	if r.settings.referrersAPI {
		return artifact.Digest.String(), nil
	}
	artifact.ArtifactType = artifactType
	return artifact.Digest.String(), r.addReferrer(repository, fallbackTag(dgst), artifact)
}

func (r *Registry) addReferrer(repository, tag string, artifact v1.Descriptor) error {
	known, err := r.Children(repository, tag)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	_, err = r.pushJSON(repository, tag, types.OCIImageIndex, v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests:     append(known, artifact),
	})
	return err
}

// fallbackTag returns the tag that lists the referrers of a digest without the API.
func fallbackTag(dgst string) string { return strings.Replace(dgst, ":", "-", 1) }

// WithReferrersAPI serves the referrers API of the OCI distribution specification 1.1, at most
// page descriptors at once (0: all), with the artifactType filter and OCI-Subject. Without
// this option it answers 404, as distribution does, and PushReferrer maintains the fallback
// tag.
func WithReferrersAPI(page int) Option {
	return func(s *settings) { s.referrersAPI, s.referrersPage = true, page }
}

// referring has the fields of a manifest or index that the API reads.
type referring struct {
	MediaType    types.MediaType   `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       *v1.Descriptor    `json:"config"`
	Subject      *v1.Descriptor    `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// serveReferrers answers GET /v2/NAME/referrers/DIGEST.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, request Request) {
	if digest.Digest(request.Reference).Validate() != nil {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
		return
	}
	if known, err := r.Repositories(); err != nil || !slices.Contains(known, request.Repository) {
		writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	listed, err := r.referrers(request.Repository, request.Reference)
	if err != nil {
		writeError(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	query := req.URL.Query()
	if wanted := query.Get("artifactType"); wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		listed = slices.DeleteFunc(listed, func(d v1.Descriptor) bool { return d.ArtifactType != wanted })
	}
	listed = r.referrersPage(w, req.URL, listed)
	w.Header().Set("Content-Type", string(types.OCIImageIndex))
	_ = json.NewEncoder(w).Encode(v1.IndexManifest{ // the client may have disconnected
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: listed,
	})
}

// referrersPage returns the requested page, with a link to the next.
func (r *Registry) referrersPage(w http.ResponseWriter, at *url.URL, listed []v1.Descriptor) []v1.Descriptor {
	query := at.Query()
	start, _ := strconv.Atoi(query.Get("from")) // absent for the first page
	listed = listed[min(max(0, start), len(listed)):]
	if r.settings.referrersPage == 0 || len(listed) <= r.settings.referrersPage {
		return listed
	}
	query.Set("from", strconv.Itoa(start+r.settings.referrersPage))
	w.Header().Set("Link", "<"+at.Path+"?"+query.Encode()+`>; rel="next"`)
	return listed[:r.settings.referrersPage]
}

// referrers returns the descriptors of the manifests with this subject, in the order of their
// digests.
func (r *Registry) referrers(repository, subject string) ([]v1.Descriptor, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	listed := []v1.Descriptor{}
	err = manifests.(distribution.ManifestEnumerator).Enumerate(ctx, func(dgst digest.Digest) error {
		payload, err := r.Manifest(repository, dgst.String())
		if err != nil {
			return err
		}
		var found referring
		if err := json.Unmarshal(payload, &found); err != nil {
			return err
		}
		if found.Subject == nil || found.Subject.Digest.String() != subject {
			return nil
		}
		described := describe(found.MediaType, payload)
		described.ArtifactType, described.Annotations = found.ArtifactType, found.Annotations
		if described.ArtifactType == "" && found.Config != nil {
			described.ArtifactType = string(found.Config.MediaType)
		}
		listed = append(listed, described)
		return nil
	})
	slices.SortFunc(listed, func(a, b v1.Descriptor) int { return slices.Compare([]byte(a.Digest.Hex), []byte(b.Digest.Hex)) })
	return listed, err
}

// subjectWriter adds OCI-Subject to the answer to a PUT of a manifest with a subject, which
// means that the registry will list it.
type subjectWriter struct {
	http.ResponseWriter
	registry *Registry
	request  Request
}

// Unwrap is the same as responseWriter's.
func (w *subjectWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *subjectWriter) WriteHeader(status int) {
	if w.request.Kind == KindManifestPut && status == http.StatusCreated {
		var stored referring
		payload, err := w.registry.Manifest(w.request.Repository, w.Header().Get("Docker-Content-Digest"))
		if err == nil && json.Unmarshal(payload, &stored) == nil && stored.Subject != nil {
			w.Header().Set("OCI-Subject", stored.Subject.Digest.String())
		}
	}
	w.ResponseWriter.WriteHeader(status)
}
