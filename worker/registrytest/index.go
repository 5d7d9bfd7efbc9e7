package registrytest

import (
	"encoding/json"
	"fmt"
	"maps"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What BuildKit says of an attestation.
const (
	attestationType      = "attestation-manifest"
	annotationType       = "vnd.docker.reference.type"
	annotationDigest     = "vnd.docker.reference.digest"
	annotationPredicate  = "in-toto.io/predicate-type"
	provenancePredicate  = "https://slsa.dev/provenance/v0.2"
	statementType        = "https://in-toto.io/Statement/v0.1"
	mediaTypeAttestation = types.MediaType("application/vnd.in-toto+json")
)

// unknownPlatform is the platform BuildKit gives to attestations.
const unknownPlatform = "unknown"

// Index describes an OCI index or a Docker manifest list.
type Index struct {
	Docker       bool              // a Docker list; its images are Docker's whatever they say
	Images       []Image           // each with its own platform
	Indexes      []Index           // below this one
	Attestations bool              // an attestation manifest for each image, as BuildKit has it
	ArtifactType string            // in the descriptor of each image, where old clients do not know it
	Annotations  map[string]string // in the descriptor of each image
}

// MultiPlatform is an index of one image for each platform, with BuildKit's
// attestations.
func MultiPlatform(version string, platforms ...string) Index {
	index := Index{Attestations: true}
	for _, platform := range platforms {
		index.Images = append(index.Images, Image{Version: version, Platform: platform})
	}
	return index
}

// PushIndex stores an index with everything below it and returns its digest.
func (r *Registry) PushIndex(repository, tag string, index Index) (string, error) {
	descriptor, err := r.pushIndex(repository, tag, index)
	return descriptor.Digest.String(), err
}

func (r *Registry) pushIndex(repository, tag string, index Index) (v1.Descriptor, error) {
	manifest := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	if index.Docker {
		manifest.MediaType = types.DockerManifestList
	}
	var attestations []v1.Descriptor
	for _, image := range index.Images {
		image.Docker = image.Docker || index.Docker
		child, err := r.pushImage(repository, "", image)
		if err != nil {
			return v1.Descriptor{}, err
		}
		child.ArtifactType, child.Annotations = index.ArtifactType, maps.Clone(index.Annotations)
		manifest.Manifests = append(manifest.Manifests, child)
		if index.Attestations {
			attestation, err := r.pushAttestation(repository, child.Digest)
			if err != nil {
				return v1.Descriptor{}, err
			}
			attestations = append(attestations, attestation)
		}
	}
	for _, nested := range index.Indexes {
		child, err := r.pushIndex(repository, "", nested)
		if err != nil {
			return v1.Descriptor{}, err
		}
		manifest.Manifests = append(manifest.Manifests, child)
	}
	manifest.Manifests = append(manifest.Manifests, attestations...)
	return r.pushJSON(repository, tag, manifest.MediaType, manifest)
}

// pushAttestation stores the provenance of an image as BuildKit does.
func (r *Registry) pushAttestation(repository string, image v1.Hash) (v1.Descriptor, error) {
	statement, err := json.Marshal(map[string]any{
		"_type":         statementType,
		"predicateType": provenancePredicate,
		"subject":       []any{map[string]any{"name": repository, "digest": map[string]string{image.Algorithm: image.Hex}}},
		"predicate":     map[string]any{},
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	attestation, err := compose(false, v1.ConfigFile{Architecture: unknownPlatform, OS: unknownPlatform}, mutate.Addendum{
		Layer:       static.NewLayer(statement, mediaTypeAttestation),
		Annotations: map[string]string{annotationPredicate: provenancePredicate},
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	descriptor, err := r.store(repository, "", attestation)
	descriptor.Annotations = map[string]string{annotationType: attestationType, annotationDigest: image.String()}
	descriptor.Platform = &v1.Platform{Architecture: unknownPlatform, OS: unknownPlatform}
	return descriptor, err
}

// Children is the descriptors in an index; none where ref is not an index.
func (r *Registry) Children(repository, ref string) ([]v1.Descriptor, error) {
	payload, err := r.Manifest(repository, ref)
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(payload, &index); err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", ref, repository, err)
	}
	return index.Manifests, nil
}
