package registrytest

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layer describes a layer: a tar archive with one file of pseudo-random bytes.
// Equal layers are the same blob, in whatever image and registry.
type Layer struct {
	Seed string // what tells it from others
	Size int    // of the file, in bytes; the blob is a little larger
	Zstd bool   // compressed by zstd instead of gzip; always an OCI type
}

func (l Layer) build(docker bool) (v1.Layer, error) {
	seed := sha256.Sum256([]byte(l.Seed))
	source := rand.NewSource(int64(binary.BigEndian.Uint64(seed[:]))) //nolint:gosec // layers must be reproducible
	raw, err := random.Layer(int64(l.Size), types.OCIUncompressedLayer, random.WithSource(source))
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", l.Seed, err)
	}
	// The fastest level will do: random bytes cannot be compressed.
	options := []tarball.LayerOption{tarball.WithCompressionLevel(gzip.BestSpeed)}
	switch {
	case l.Zstd:
		options = append(options, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	case docker:
		options = append(options, tarball.WithMediaType(types.DockerLayer))
	default:
		options = append(options, tarball.WithMediaType(types.OCILayer))
	}
	layer, err := tarball.LayerFromOpener(raw.Uncompressed, options...)
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", l.Seed, err)
	}
	return layer, nil
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

// describe is the descriptor of a blob or manifest.
func describe(mediaType types.MediaType, content []byte) v1.Descriptor {
	return v1.Descriptor{
		MediaType: mediaType,
		Size:      int64(len(content)),
		Digest:    v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(content))},
	}
}
