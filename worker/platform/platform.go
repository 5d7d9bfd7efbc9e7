// Package platform chooses images by platform, and makes an index of some of the platforms of
// another one.
package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registry"
)

var (
	// ErrNoPlatform is returned for an index with none of the wanted platforms.
	ErrNoPlatform = errors.New("none of the platforms")
	// ErrConfig is returned if a blob is not the configuration of an image.
	ErrConfig = errors.New("not an image configuration")
)

// Annotations of a rewritten index. They record the source's index and the selection, so that one
// GET at the destination is enough to find out whether it is up to date.
const (
	annotationSource       = "io.osism.skopeo-worker.source"       // digest of the source's index
	annotationPlatforms    = "io.osism.skopeo-worker.platforms"    // normalised, separated by commas; "all" for all
	annotationAttestations = "io.osism.skopeo-worker.attestations" // "true" or "false"
)

// every is annotationPlatforms if only attestations were left out.
const every = "all"

// Wanted is the part of an index that is mirrored.
type Wanted struct {
	Platforms           []string // os/arch[/variant] from selection.ParsePlatforms; none: all
	WithoutAttestations bool
}

// All reports whether everything is wanted, so that no index is rewritten.
func (w Wanted) All() bool { return len(w.Platforms) == 0 && !w.WithoutAttestations }

// Current reports whether the manifest at the destination is the Subset of the source's
// manifest with this digest. The source is not needed: the manifest is either a rewritten
// index, whose annotations name the source's index, or the source's own, of which nothing
// would be left out.
func (w Wanted) Current(atDestination registry.Manifest, sourceDigest reference.Digest) bool {
	if atDestination.Digest == sourceDigest {
		subset, _, err := w.Subset(atDestination)
		return err == nil && subset.Digest == sourceDigest
	}
	if w.All() || !atDestination.IsIndex() {
		return false
	}
	var index struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(atDestination.Raw, &index) != nil {
		return false
	}
	maps.DeleteFunc(index.Annotations, func(key, _ string) bool {
		return key != annotationSource && key != annotationPlatforms && key != annotationAttestations
	})
	return maps.Equal(index.Annotations, w.annotations(sourceDigest))
}

func (w Wanted) annotations(sourceDigest reference.Digest) map[string]string {
	return map[string]string{
		annotationSource:       sourceDigest.String(),
		annotationPlatforms:    w.platforms(),
		annotationAttestations: strconv.FormatBool(!w.WithoutAttestations),
	}
}

func (w Wanted) platforms() string {
	if len(w.Platforms) == 0 {
		return every
	}
	return strings.Join(w.Platforms, ",")
}

// Image reports whether a single image, which is in no index, is for a wanted platform,
// according to its configuration: a blob of a media type for which go-containerregistry's
// MediaType.IsConfig is true. One that names no platform is wanted, as in an index. The
// error is ErrConfig.
func (w Wanted) Image(config []byte) (matches bool, err error) {
	var image selection.Platform
	if err := json.Unmarshal(config, &image); err != nil {
		return false, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return image.OS == "" || w.covers(selection.NewPlatform(image.OS, image.Architecture, image.Variant)), nil
}

// Covers reports whether an image for the platform, os/arch[/variant] in any spelling, is
// wanted.
func (w Wanted) Covers(platform string) bool { return w.covers(selection.SplitPlatform(platform)) }

func (w Wanted) covers(image selection.Platform) bool {
	return len(w.Platforms) == 0 || slices.ContainsFunc(w.Platforms, func(wanted string) bool {
		return selection.SplitPlatform(wanted).Covers(image)
	})
}
