package registrytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
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
	built, err := image.build(repository, platform)
	if err != nil {
		return v1.Descriptor{}, err
	}
	descriptor, err := r.store(repository, tag, built)
	descriptor.Platform = platform
	return descriptor, err
}

func (i Image) platform() (*v1.Platform, error) {
	name := cmp.Or(i.Platform, DefaultPlatform)
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
