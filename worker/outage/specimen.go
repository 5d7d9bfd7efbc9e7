package outage

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// maxSpecimens is how many specimens are remembered for each registry, one of each
	// repository.
	maxSpecimens = 8
	// maxTries is how many specimens are tried to judge a registry.
	maxTries = 3
)

// Specimen is an image that both sides had recently. If an operation fails with other images, it
// is tried with a specimen. If that works, the other images are at fault, and not the registry.
type Specimen struct {
	Source, Destination reference.Repository
	Digest              reference.Digest // at the destination
}

// Known notes that both repositories have an image. digest is its digest at the destination.
func (t *Tracker) Known(source, destination reference.Repository, digest reference.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = map[string][]Specimen{}
	}
	known := Specimen{source, destination, digest}
	for _, name := range []string{source.Registry(), destination.Registry()} {
		all := slices.DeleteFunc(t.known[name], func(s Specimen) bool {
			return s.Source == source && s.Destination == destination
		})
		t.known[name] = append(all, known)[max(0, len(all)+1-maxSpecimens):]
	}
}

// controlTimeout limits the time of all requests with specimens, which are small.
const controlTimeout = 30 * time.Second

// works reports whether the operation that has failed at a place works there with a specimen. It
// tries specimens of other repositories first. A failure with one of the same repository proves
// nothing.
func (t *Tracker) works(ctx context.Context, p place, repository reference.Repository, why outcome.Why) bool {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	failing := t.failing(p, repository, why)
	others, same := t.specimens(p, failing)
	if len(others) == 0 && t.recall(ctx, p.registry, failing) {
		others, same = t.specimens(p, failing)
	}
	if why == outcome.Full {
		same = nil // a specimen takes no space
	}
	for i, s := range append(others, same...) {
		if i == maxTries {
			break
		}
		err := t.repeat(ctx, p, s)
		if err == nil {
			return true
		}
		suspicion, suspected := t.suspect(err)
		if suspected && suspicion.Registry == p.registry && i < len(others) {
			return false
		}
		t.Log.Debug("a working image cannot be used to test its registry", "registry", p.registry, "error", err)
	}
	return false
}

// recallEvery is how often Recorded is asked at most about a registry.
const recallEvery = time.Minute

// recall adds recorded images of other repositories to those that are known, and reports whether there
// are any.
func (t *Tracker) recall(ctx context.Context, registry string, failing map[reference.Repository]bool) bool {
	if t.Recorded == nil || !t.mayRecall(registry) {
		return false
	}
	recorded, err := t.Recorded(ctx, registry, failing, maxTries)
	if err != nil {
		t.Log.Debug("reading which images were mirrored, to test a registry", "registry", registry, "error", err)
	}
	for _, s := range recorded {
		t.Known(s.Source, s.Destination, s.Digest)
	}
	return len(recorded) > 0
}

func (t *Tracker) mayRecall(registry string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.recalled[registry]) < recallEvery {
		return false
	}
	if t.recalled == nil {
		t.recalled = map[string]time.Time{}
	}
	t.recalled[registry] = time.Now()
	return true
}

// failing returns the repositories that have failed at a place.
func (t *Tracker) failing(p place, repository reference.Repository, why outcome.Why) map[reference.Repository]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[reference.Repository]bool{repository: true}
	if s := t.streaks[failing{p, why}]; s != nil {
		for name := range s.repositories {
			all[name] = true
		}
	}
	return all
}

// specimens returns the specimens of other repositories and of those that fail, the latest
// first.
func (t *Tracker) specimens(p place, failing map[reference.Repository]bool) (others, same []Specimen) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range slices.Backward(t.known[p.registry]) {
		if failing[s.Source] || failing[s.Destination] {
			same = append(same, s)
		} else {
			others = append(others, s)
		}
	}
	return others, same
}

// errSpecimen is returned for a specimen with which the operation cannot be tried.
var errSpecimen = errors.New("it has no configuration")

// repeat tries the failed operation of a place with a specimen. At the destination, it puts an
// image that the destination already has.
func (t *Tracker) repeat(ctx context.Context, p place, s Specimen) error {
	manifest, config, err := t.read(ctx, s)
	if err != nil {
		return err
	}
	atSource := s.Source.Registry() == p.registry && p.activity != budget.Push
	if !atSource && p.activity != budget.Push {
		return nil // it has just been read
	}
	if atSource {
		if _, err = t.Registry.Head(ctx, s.Source, manifest.Digest); err == nil && p.activity == budget.Fetch {
			_, err = t.Registry.Config(ctx, s.Source, config.Digest)
		}
		return err
	}
	content, err := t.Registry.Writing().Config(ctx, s.Destination, config.Digest)
	if err != nil {
		return err
	}
	config.Size = int64(len(content))
	if err = t.Registry.Writing().PutBlob(ctx, s.Destination, config, bytes.NewReader(content)); err != nil {
		return err
	}
	return t.Registry.Writing().Put(ctx, s.Destination, manifest.Digest, manifest)
}

// read returns the manifest of a specimen (of an index, its first manifest) and the descriptor of
// its configuration. It reads at the destination, which costs no pull.
func (t *Tracker) read(ctx context.Context, s Specimen) (manifest registry.Manifest, config registry.Descriptor, err error) {
	manifest, err = t.Registry.Writing().Get(ctx, s.Destination, s.Digest)
	if err == nil && manifest.IsIndex() {
		var entries []registry.Entry
		if entries, err = manifest.Entries(); err == nil {
			entries = slices.DeleteFunc(entries, platform.Attestation)
			if len(entries) == 0 {
				return manifest, config, errSpecimen
			}
			manifest, err = t.Registry.Writing().Get(ctx, s.Destination, entries[0].Digest)
		}
	}
	var blobs []registry.Descriptor
	if err == nil {
		blobs, err = manifest.Blobs()
	}
	if err == nil && len(blobs) == 0 {
		err = errSpecimen
	}
	if err != nil {
		return manifest, config, err
	}
	return manifest, blobs[len(blobs)-1], nil // the configuration comes last
}
