package registrytest

import (
	"encoding/json"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// DefaultPlatform is the platform of an image that names none.
const DefaultPlatform = "linux/amd64"

// defaultLayerSize is the size of the one layer of an image that names none.
const defaultLayerSize = 1 << 10

// defaultCreated is when images that do not say otherwise were built.
var defaultCreated = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Image describes an image of one platform. Equal images have equal digests.
type Image struct {
	Version  string         // a label; tells it from an image with the same layers
	Docker   bool           // Docker schema 2 instead of OCI
	Platform string         // os/architecture[/variant]; empty = DefaultPlatform
	Layers   []Layer        // none: one small layer of its own
	Created  time.Time      // zero: a fixed date
	Subject  *v1.Descriptor // OCI only
}

// PushImage stores an image and returns its digest. Without a tag it is found
// by that digest only.
func (r *Registry) PushImage(repository, tag string, image Image) (string, error) {
	descriptor, err := r.pushImage(repository, tag, image)
	return descriptor.Digest.String(), err
}

func (r *Registry) pushImage(repository, tag string, image Image) (v1.Descriptor, error) {
	platform, err := image.platform()
	if err != nil {
		return v1.Descriptor{}, err
	}
	layers, err := image.layers(repository)
	if err != nil {
		return v1.Descriptor{}, err
	}
	config, err := json.Marshal(image.config(platform, layers))
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        describe(types.OCIConfigJSON, config),
		Subject:       image.Subject,
	}
	if image.Docker {
		manifest.MediaType, manifest.Config.MediaType = types.DockerManifestSchema2, types.DockerConfigJSON
	}
	blobs := [][]byte{config}
	for _, layer := range layers {
		manifest.Layers = append(manifest.Layers, layer.descriptor)
		blobs = append(blobs, layer.content)
	}
	descriptor, err := r.pushJSON(repository, tag, manifest.MediaType, manifest, blobs...)
	descriptor.Platform = platform
	return descriptor, err
}

func (i Image) platform() (*v1.Platform, error) {
	name := i.Platform
	if name == "" {
		name = DefaultPlatform
	}
	platform, err := v1.ParsePlatform(name)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w", name, err)
	}
	return platform, nil
}

func (i Image) layers(repository string) ([]built, error) {
	layers := i.Layers
	if len(layers) == 0 {
		layers = []Layer{{Seed: fmt.Sprint(repository, " ", i.Version, " ", i.Platform), Size: defaultLayerSize}}
	}
	var all []built
	for _, layer := range layers {
		one, err := layer.build(i.Docker)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func (i Image) config(platform *v1.Platform, layers []built) v1.ConfigFile {
	created := i.Created
	if created.IsZero() {
		created = defaultCreated
	}
	config := v1.ConfigFile{
		Architecture: platform.Architecture,
		OS:           platform.OS,
		Variant:      platform.Variant,
		Created:      v1.Time{Time: created.UTC()},
		Config:       v1.Config{Labels: map[string]string{"org.opencontainers.image.version": i.Version}},
		RootFS:       v1.RootFS{Type: "layers"},
	}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.diffID)
		config.History = append(config.History, v1.History{Created: config.Created, CreatedBy: "COPY data /"})
	}
	return config
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
	if _, err := r.PushManifest(repository, tag, mediaType, payload); err != nil {
		return v1.Descriptor{}, err
	}
	return describe(mediaType, payload), nil
}
