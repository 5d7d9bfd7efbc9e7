package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
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

// built is a layer as the registry stores it.
type built struct {
	descriptor v1.Descriptor
	diffID     v1.Hash
	content    []byte
}

func (l Layer) build(docker bool) (built, error) {
	archive, err := l.archive()
	if err != nil {
		return built{}, fmt.Errorf("layer %q: %w", l.Seed, err)
	}
	// Random bytes do not shrink: the fastest level does.
	options := []tarball.LayerOption{tarball.WithCompressionLevel(gzip.BestSpeed)}
	switch {
	case l.Zstd:
		options = append(options, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	case docker:
		options = append(options, tarball.WithMediaType(types.DockerLayer))
	default:
		options = append(options, tarball.WithMediaType(types.OCILayer))
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive)), nil
	}, options...)
	if err != nil {
		return built{}, fmt.Errorf("layer %q: %w", l.Seed, err)
	}
	return describeLayer(layer)
}

func describeLayer(layer v1.Layer) (built, error) {
	compressed, err := layer.Compressed()
	if err != nil {
		return built{}, err
	}
	defer compressed.Close()
	content, err := io.ReadAll(compressed)
	if err != nil {
		return built{}, err
	}
	diffID, err := layer.DiffID()
	if err != nil {
		return built{}, err
	}
	mediaType, err := layer.MediaType()
	if err != nil {
		return built{}, err
	}
	return built{describe(mediaType, content), diffID, content}, nil
}

func (l Layer) archive() ([]byte, error) {
	content := make([]byte, l.Size)
	if _, err := rand.NewChaCha8(sha256.Sum256([]byte(l.Seed))).Read(content); err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "data", Mode: 0o644, Size: int64(l.Size)}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

// describe is the descriptor of a blob or manifest.
func describe(mediaType types.MediaType, content []byte) v1.Descriptor {
	return v1.Descriptor{
		MediaType: mediaType,
		Size:      int64(len(content)),
		Digest:    v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(content))},
	}
}
