package registrytest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// LongTag is a tag of 128 characters, the most there can be.
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

// Cache describes a cache that BuildKit exports to a registry.
type Cache struct {
	Docker bool // a Docker list of Docker layers, as older versions made it
	Layers []Layer
	Type   types.MediaType // of the layers, instead of their own
	Images []Image         // that something else put beside them
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

// SignatureTag is the tag of cosign's older scheme: sha256-HEX.sig.
func SignatureTag(dgst string) string { return fallbackTag(dgst) + ".sig" }

// PushSignature signs a digest of the repository as cosign's older scheme does,
// under SignatureTag. The signature is not valid.
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

// PushReferrer stores an artifact whose subject is a digest of the repository,
// and lists it under the tag sha256-HEX, unless the registry has the referrers
// API: distribution itself has none.
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

// fallbackTag is where the referrers of a digest are listed without an API.
func fallbackTag(dgst string) string { return strings.Replace(dgst, ":", "-", 1) }
