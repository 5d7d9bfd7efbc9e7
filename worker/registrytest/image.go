package registrytest

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// defaultPlatform is the default of Image.Platform.
const defaultPlatform = "linux/amd64"

// defaultLayerSize is the size of the layer of an Image without Layers.
const defaultLayerSize = 1 << 10

// defaultCreated is the default of Image.Created.
var defaultCreated = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Image describes an image of one platform. Equal images have equal digests.
type Image struct {
	Version  string         // a label; distinguishes images with the same layers
	Docker   bool           // Docker schema 2 instead of OCI
	Platform string         // os/architecture[/variant]; "": defaultPlatform
	Layers   []Layer        // none: one small layer of its own
	Created  time.Time      // zero: a fixed date
	Subject  *v1.Descriptor // OCI only
}

// PushImage stores an image and returns its digest. The tag is optional.
func (r *Registry) PushImage(repository, tag string, image Image) (string, error) {
	descriptor, err := r.pushImage(repository, tag, image)
	return descriptor.Digest.String(), err
}

func (r *Registry) pushImage(repository, tag string, image Image) (v1.Descriptor, error) {
	platform, err := image.platform()
	if err != nil {
		return v1.Descriptor{}, err
	}
	built, err := image.build(repository, platform)
	if err != nil {
		return v1.Descriptor{}, err
	}
	descriptor, err := r.store(repository, tag, built)
	descriptor.Platform = platform
	return descriptor, err
}

func (i Image) platform() (*v1.Platform, error) {
	name := cmp.Or(i.Platform, defaultPlatform)
	platform, err := v1.ParsePlatform(name)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w", name, err)
	}
	return platform, nil
}

func (i Image) build(repository string, platform *v1.Platform) (v1.Image, error) {
	layers := i.Layers
	if len(layers) == 0 {
		layers = []Layer{{Seed: fmt.Sprint(repository, " ", i.Version, " ", i.Platform), Size: defaultLayerSize}}
	}
	created := v1.Time{Time: i.Created.UTC()}
	if i.Created.IsZero() {
		created.Time = defaultCreated
	}
	var added []mutate.Addendum
	for _, layer := range layers {
		built, err := layer.build(i.Docker)
		if err != nil {
			return nil, err
		}
		added = append(added, mutate.Addendum{Layer: built, History: v1.History{Created: created, CreatedBy: "COPY data /"}})
	}
	image, err := compose(i.Docker, v1.ConfigFile{
		Architecture: platform.Architecture, OS: platform.OS, Variant: platform.Variant, Created: created,
		Config: v1.Config{Labels: map[string]string{"org.opencontainers.image.version": i.Version}},
	}, added...)
	if err == nil && i.Subject != nil {
		image = mutate.Subject(image, *i.Subject).(v1.Image)
	}
	return image, err
}

// compose makes an image from a configuration and layers.
func compose(docker bool, config v1.ConfigFile, layers ...mutate.Addendum) (v1.Image, error) {
	base := empty.Image // Docker schema 2
	if !docker {
		base = mutate.ConfigMediaType(mutate.MediaType(base, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	config.RootFS.Type = "layers"
	image, err := mutate.ConfigFile(base, &config)
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, layers...)
}

// store stores an image with its blobs.
func (r *Registry) store(repository, tag string, image v1.Image) (v1.Descriptor, error) {
	if err := r.pushBlobs(repository, image); err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	mediaType, err := image.MediaType()
	if err != nil {
		return v1.Descriptor{}, err
	}
	_, err = r.PushManifest(repository, tag, mediaType, manifest)
	return describe(mediaType, manifest), err
}

// pushBlobs stores the layers and the configuration of an image.
func (r *Registry) pushBlobs(repository string, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		if _, err := r.pushLayer(repository, layer); err != nil {
			return err
		}
	}
	config, err := image.RawConfigFile()
	if err == nil {
		_, err = r.PushBlob(repository, config)
	}
	return err
}

// pushJSON stores blobs and the manifest above them.
func (r *Registry) pushJSON(repository, tag string, mediaType types.MediaType, manifest any, blobs ...[]byte) (v1.Descriptor, error) {
	for _, blob := range blobs {
		if _, err := r.PushBlob(repository, blob); err != nil {
			return v1.Descriptor{}, err
		}
	}
	payload, err := json.Marshal(manifest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	_, err = r.PushManifest(repository, tag, mediaType, payload)
	return describe(mediaType, payload), err
}

// pushLayer stores a layer and returns its descriptor.
func (r *Registry) pushLayer(repository string, layer v1.Layer) (v1.Descriptor, error) {
	compressed, err := layer.Compressed()
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer compressed.Close()
	content, err := io.ReadAll(compressed)
	if err != nil {
		return v1.Descriptor{}, err
	}
	mediaType, err := layer.MediaType()
	if err != nil {
		return v1.Descriptor{}, err
	}
	_, err = r.PushBlob(repository, content)
	return describe(mediaType, content), err
}

// describe returns the descriptor of a blob or manifest.
func describe(mediaType types.MediaType, content []byte) v1.Descriptor {
	return v1.Descriptor{
		MediaType: mediaType,
		Size:      int64(len(content)),
		Digest:    v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(content))},
	}
}

// Media type and annotations of BuildKit's attestations.
const (
	attestationType      = "attestation-manifest"
	annotationType       = "vnd.docker.reference.type"
	annotationDigest     = "vnd.docker.reference.digest"
	annotationPredicate  = "in-toto.io/predicate-type"
	provenancePredicate  = "https://slsa.dev/provenance/v0.2"
	statementType        = "https://in-toto.io/Statement/v0.1"
	mediaTypeAttestation = types.MediaType("application/vnd.in-toto+json")
)

// unknownPlatform is the platform of BuildKit's attestations.
const unknownPlatform = "unknown"

// Index describes an OCI index or a Docker manifest list.
type Index struct {
	Docker       bool              // a Docker list of Docker images
	Images       []Image           // each with its own platform
	Indexes      []Index           // below this one
	Attestations bool              // an attestation for each image, as from BuildKit
	ArtifactType string            // in the descriptor of each image; old clients do not know it there
	Annotations  map[string]string // in the descriptor of each image
}

// MultiPlatform returns an index of one image for each platform, with BuildKit's attestations.
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

// Children returns the descriptors in an index, or none if ref is not an index.
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
