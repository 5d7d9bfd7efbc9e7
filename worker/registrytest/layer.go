package registrytest

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand"
	"sync"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layer describes a layer: a tar archive with one file of pseudo-random bytes. Equal layers
// are the same blob in any image and registry.
type Layer struct {
	Seed string // of its content
	Size int    // of the file, in bytes; the blob is a little larger
	Zstd bool   // compressed by zstd instead of gzip; always an OCI type
}

// layers are the small layers so far, by Layer and media type: tests push the same ones again and again.
var layers sync.Map

type layerKey struct {
	layer     Layer
	mediaType types.MediaType
}

func (l Layer) build(docker bool) (v1.Layer, error) {
	key := layerKey{l, types.OCILayer}
	switch {
	case l.Zstd:
		key.mediaType = types.OCILayerZStd
	case docker:
		key.mediaType = types.DockerLayer
	}
	if built, ok := layers.Load(key); ok {
		return built.(v1.Layer), nil
	}
	built, err := l.pack(key.mediaType)
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", l.Seed, err)
	}
	if l.Size <= defaultLayerSize {
		layers.Store(key, built)
	}
	return built, nil
}

func (l Layer) pack(mediaType types.MediaType) (v1.Layer, error) {
	seed := sha256.Sum256([]byte(l.Seed))
	source := rand.NewSource(int64(binary.BigEndian.Uint64(seed[:]))) //nolint:gosec // layers must be reproducible
	raw, err := random.Layer(int64(l.Size), types.OCIUncompressedLayer, random.WithSource(source))
	if err != nil {
		return nil, err
	}
	// Random bytes cannot be compressed.
	options := []tarball.LayerOption{tarball.WithMediaType(mediaType), tarball.WithCompressionLevel(gzip.NoCompression), tarball.WithCompressedCaching}
	if l.Zstd {
		options = append(options, tarball.WithCompression(compression.ZStd))
	}
	return tarball.LayerFromOpener(raw.Uncompressed, options...)
}
