package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// Descriptor describes a manifest or blob.
type Descriptor struct {
	Digest    reference.Digest
	MediaType string
	Size      int64  // in bytes; 0 if the registry does not state it
	Platform  string // os/architecture[/variant]; optional, and only of entries of an index
	Pulled    bool   // the look-up took a GET, which is a pull
}

// Manifest is a manifest with the bytes that the registry has sent.
type Manifest struct {
	Raw       []byte
	MediaType string
	Digest    reference.Digest
}

// content has the fields of images and indexes of OCI and Docker.
type content struct {
	SchemaVersion int                   `json:"schemaVersion"`
	MediaType     string                `json:"mediaType"`
	ArtifactType  string                `json:"artifactType"`
	Manifests     bounded[childContent] `json:"manifests"`
	Config        *blobContent          `json:"config"`
	Layers        bounded[blobContent]  `json:"layers"`
	FSLayers      bounded[fsLayer]      `json:"fsLayers"`   // Docker schema 1
	Signatures    *json.RawMessage      `json:"signatures"` // Docker schema 1
}

type fsLayer struct {
	BlobSum string `json:"blobSum"`
}

// maxEntries is how many entries an index may have, and how many layers an image. Real ones have a
// few hundred at most.
const maxEntries = 10_000

// bounded is an array of at most maxEntries items.
type bounded[T any] []T

func (f *bounded[T]) UnmarshalJSON(data []byte) (err error) {
	*f, err = ReadList[T](data, maxEntries)
	return err
}

type blobContent struct {
	MediaType string           `json:"mediaType"`
	Digest    string           `json:"digest"`
	Size      int64            `json:"size"`
	URLs      *json.RawMessage `json:"urls"`
}

type childContent struct {
	MediaType string              `json:"mediaType"`
	Digest    string              `json:"digest"`
	Size      int64               `json:"size"`
	Platform  *selection.Platform `json:"platform"`
}

// IsIndex reports whether the manifest lists other manifests: an OCI index or a Docker
// manifest list.
func (m Manifest) IsIndex() bool { return types.MediaType(m.MediaType).IsIndex() }

// Children returns the entries of an index in its order: images, indexes and blobs. It does not
// include the entries of the indexes. An image has none. The error is ErrBadManifest.
func (m Manifest) Children() ([]Descriptor, error) {
	if !m.IsIndex() {
		return nil, nil
	}
	var index content
	if err := json.Unmarshal(m.Raw, &index); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	children := make([]Descriptor, 0, len(index.Manifests))
	for i, child := range index.Manifests {
		described, err := child.descriptor()
		if err != nil {
			return nil, fmt.Errorf("%w: child %d: %w", ErrBadManifest, i+1, err)
		}
		children = append(children, described)
	}
	return children, nil
}

func (c childContent) descriptor() (Descriptor, error) {
	digest, err := reference.ParseDigest(c.Digest)
	described := Descriptor{Digest: digest, MediaType: c.MediaType, Size: c.Size}
	if p := c.Platform; p != nil && p.OS != "" {
		described.Platform = p.String()
	}
	return described, err
}

// blobs returns the layers of an image, and its configuration last.
func (c *content) blobs() []blobContent {
	if c.Config == nil {
		return c.Layers
	}
	return append(c.Layers, *c.Config)
}

// ContentSize returns the size in bytes of an image's configuration and layers. It is 0 for an
// index.
func (m Manifest) ContentSize() int64 {
	var image content
	if m.IsIndex() || json.Unmarshal(m.Raw, &image) != nil {
		return 0
	}
	var size int64
	for _, blob := range image.blobs() {
		if blob.Size > 0 && blob.Size <= math.MaxInt64-size { // ignore impossible sizes
			size += blob.Size
		}
	}
	return size
}

// Blobs returns an image's layers and, after them, its configuration. It leaves out layers that have
// URLs and may be distributed by their publisher only. An index has none. The error is
// ErrBadManifest.
func (m Manifest) Blobs() ([]Descriptor, error) {
	var image content
	if err := json.Unmarshal(m.Raw, &image); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	listed := image.blobs()
	for _, layer := range image.FSLayers {
		listed = append(listed, blobContent{Digest: layer.BlobSum})
	}
	var blobs []Descriptor
	for _, b := range listed {
		digest, err := reference.ParseDigest(b.Digest)
		if err != nil {
			return nil, fmt.Errorf("%w: blob: %w", ErrBadManifest, err)
		}
		if d := (Descriptor{Digest: digest, MediaType: b.MediaType, Size: b.Size}); d.Distributable() || b.URLs == nil {
			blobs = append(blobs, d)
		}
	}
	return blobs, nil
}

// mediaType returns the media type of a manifest in an answer with these headers. The mediaType field
// has precedence because the digest covers it. It is optional in OCI manifests, and some registries
// send text/plain as Content-Type.
func mediaType(raw []byte, header http.Header) (string, error) {
	var found content
	if err := json.Unmarshal(raw, &found); err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	if found.MediaType != "" {
		return found.MediaType, nil
	}
	declared := declaredType(header)
	known := types.MediaType(declared)
	switch {
	case known.IsIndex(), known.IsImage(), known.IsSchema1():
		return declared, nil
	case found.Manifests != nil:
		return string(types.OCIImageIndex), nil
	case found.Config != nil:
		return string(types.OCIManifestSchema1), nil
	case found.FSLayers != nil && found.Signatures == nil:
		return string(types.DockerManifestSchema1), nil
	case found.FSLayers != nil:
		return string(types.DockerManifestSchema1Signed), nil
	default:
		return "", fmt.Errorf("%w: neither an image nor an index", ErrBadManifest)
	}
}

// declaredType returns the Content-Type without its parameters, or "" if it is invalid.
func declaredType(header http.Header) string {
	declared, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return declared
}

// Entry is an entry of an index.
type Entry struct {
	Descriptor
	Annotations map[string]string
	Raw         json.RawMessage // the whole entry, including unknown fields
}

// Entries returns the entries of an index as Children does, with their annotations. An image
// has none. The error is ErrBadManifest.
func (m Manifest) Entries() ([]Entry, error) {
	children, err := m.Children()
	if err != nil || len(children) == 0 {
		return nil, err
	}
	var index struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(m.Raw, &index); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	entries := make([]Entry, len(children))
	for i, child := range children {
		var more struct {
			Annotations map[string]string `json:"annotations"`
		}
		if err := json.Unmarshal(index.Manifests[i], &more); err != nil {
			return nil, fmt.Errorf("%w: child %d: %w", ErrBadManifest, i+1, err)
		}
		entries[i] = Entry{Descriptor: child, Annotations: more.Annotations, Raw: index.Manifests[i]}
	}
	return entries, nil
}

// WithEntries returns the index with other entries and additional annotations. It keeps all other
// fields, but not their order and white space. Equal input gives an equal digest. The error is
// ErrBadManifest.
func (m Manifest) WithEntries(entries []Entry, annotations map[string]string) (Manifest, error) {
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(m.Raw, &fields); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	listed := make([]json.RawMessage, len(entries))
	for i, entry := range entries {
		listed[i] = entry.Raw
	}
	var err error
	if fields["manifests"], err = encode(listed); err != nil {
		return Manifest{}, err
	}
	if len(annotations) > 0 {
		if fields["annotations"], err = annotated(fields["annotations"], annotations); err != nil {
			return Manifest{}, err
		}
	}
	raw, err := encode(fields)
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{Raw: raw, MediaType: m.MediaType, Digest: reference.DigestOf(raw)}, nil
}

// annotated adds annotations to the existing ones, which are optional.
func annotated(existing json.RawMessage, annotations map[string]string) (json.RawMessage, error) {
	all := make(map[string]string)
	if existing != nil {
		if err := json.Unmarshal(existing, &all); err != nil {
			return nil, fmt.Errorf("%w: annotations: %w", ErrBadManifest, err)
		}
	}
	if all == nil { // null
		all = make(map[string]string)
	}
	maps.Copy(all, annotations)
	return encode(all)
}

// encode is json.Marshal without escaping HTML characters in strings.
func encode(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// Kind is the kind of an entry of an index.
type Kind int

// The kinds of entries.
const (
	_ Kind = iota // an unknown media type
	IsManifest
	IsBlob
)

// Media types that go-containerregistry does not know.
const (
	// artifactManifest is the media type of artifacts in drafts of OCI image specification
	// 1.1.
	artifactManifest = types.MediaType("application/vnd.oci.artifact.manifest.v1+json")
	// cacheConfig is the configuration of a BuildKit cache, which is exported as an index of
	// layers and of this blob (cache/remotecache/v1 of its sources).
	cacheConfig = types.MediaType("application/vnd.buildkit.cacheconfig.v0")
)

// Kind returns the kind of an entry according to its media type.
func (d Descriptor) Kind() Kind {
	switch t := types.MediaType(d.MediaType); {
	case t.IsIndex(), t.IsImage(), t.IsSchema1(), t == artifactManifest:
		return IsManifest
	case t.IsLayer(), t.IsConfig(), t == cacheConfig:
		return IsBlob
	}
	return 0
}

// Distributable reports whether a blob may be copied to other registries.
func (d Descriptor) Distributable() bool { return types.MediaType(d.MediaType).IsDistributable() }

const (
	// maxTypes is how many media types Types returns.
	maxTypes = 5
	// maxType is how many characters of each media type Types returns. RFC 6838 allows 127 for
	// each half; real ones are shorter.
	maxType = 100
)

// Types returns the media types in a manifest without duplicates, up to a limit. If a registry
// refuses the manifest, it may not accept one of them.
func (m Manifest) Types() string {
	var found content
	_ = json.Unmarshal(m.Raw, &found) // if it cannot be parsed, only its own type is known
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
