package registry

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Kind is what an entry of an index stands for.
type Kind int

// The kinds.
const (
	Unknown Kind = iota // of a media type that nobody knows
	IsManifest
	IsBlob
)

// Media types that go-containerregistry does not know.
const (
	// artifactManifest is that of OCI image specification 1.1 before its release.
	artifactManifest = types.MediaType("application/vnd.oci.artifact.manifest.v1+json")
	// cacheConfig is that of BuildKit (cache/remotecache/v1 of its sources), which
	// exports its cache as an index of layers and of this.
	cacheConfig = types.MediaType("application/vnd.buildkit.cacheconfig.v0")
)

// Kind tells what the descriptor stands for, by its media type.
func (d Descriptor) Kind() Kind {
	switch t := types.MediaType(d.MediaType); {
	case t.IsIndex(), t.IsImage(), t.IsSchema1(), t == artifactManifest:
		return IsManifest
	case t.IsLayer(), t.IsConfig(), t == cacheConfig:
		return IsBlob
	default:
		return Unknown
	}
}

// Distributable tells whether others than its publisher may hand a blob on.
func (d Descriptor) Distributable() bool { return types.MediaType(d.MediaType).IsDistributable() }

const (
	// maxTypes is how many media types of a manifest are named: those of an image are few.
	maxTypes = 5
	// maxType is how many characters of each: RFC 6838 has 127 for either half, and nobody
	// comes near it.
	maxType = 100
)

// Types names the media types of a manifest and of what it refers to, each once, the
// first ones: what a registry that does not want the manifest may not know.
func (m Manifest) Types() string {
	var found content
	_ = json.Unmarshal(m.Raw, &found) // a manifest that cannot be read has its own type at least
	var within []string
	add := func(mediaType string) {
		mediaType = shorten(mediaType, maxType)
		if mediaType != "" && !slices.Contains(within, mediaType) {
			within = append(within, mediaType)
		}
	}
	add(found.ArtifactType)
	if found.Config != nil {
		add(found.Config.MediaType)
	}
	for _, layer := range found.Layers {
		add(layer.MediaType)
	}
	for _, child := range found.Manifests {
		add(child.MediaType)
	}
	if len(within) == 0 {
		return m.MediaType
	}
	if len(within) > maxTypes {
		within = append(within[:maxTypes], "…")
	}
	return m.MediaType + " with " + strings.Join(within, ", ")
}
