package transfer

import (
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// heldFor is how long a blob that was sent or found is not looked up again. Garbage collectors
	// keep unreferenced blobs for longer, because every client sends the blobs of an image before
	// its manifest.
	heldFor = 5 * time.Minute

	// offeredFor is how long a registry is asked to mount a blob from a repository that held it.
	// The registry checks whether that repository still has it.
	offeredFor = time.Hour

	// maxHeld is how many blobs are remembered, with some 300 bytes each.
	maxHeld = 20000

	// maxHolders is how many repositories are remembered for one blob.
	maxHolders = 4

	// maxDenied is after how many refusals in a row a registry is not asked to mount blobs for
	// offeredFor.
	maxDenied = 3

	// proven, as habit.denied, means that the registry mounted the last blob.
	proven = -1
)

// held remembers which repositories of destinations hold which blobs.
type held struct {
	now func() time.Time

	mu     sync.Mutex
	places *lru.Cache[place, time.Time]
	// holders are the repositories of a registry that hold a blob, the latest first.
	holders *lru.Cache[shelf, []reference.Repository]
	habits  map[string]habit // by registry
}

// shelf is a blob in a registry.
type shelf struct {
	registry string
	digest   reference.Digest
}

// habit is whether a registry mounts blobs.
type habit struct {
	denied int       // refusals in a row, or proven
	last   time.Time // of the last request to mount
}

func newHeld() *held {
	h := &held{now: time.Now, habits: make(map[string]habit)}
	// The only error is that of a size below 1.
	h.places, _ = lru.New[place, time.Time](maxHeld)
	h.holders, _ = lru.New[shelf, []reference.Repository](maxHeld)
	return h
}

func (p place) shelf() shelf { return shelf{p.repository.Registry(), p.digest} }

func (h *held) has(p place) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.isNewer(p, heldFor)
}

// isNewer reports whether the blob was found or sent there less than a time ago.
func (h *held) isNewer(p place, than time.Duration) bool {
	since, known := h.places.Get(p)
	return known && h.now().Sub(since) < than
}

func (h *held) add(p place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.places.Add(p, h.now())
	known, _ := h.holders.Get(p.shelf())
	others := slices.DeleteFunc(slices.Clone(known), func(r reference.Repository) bool { return r == p.repository })
	others = others[:min(len(others), maxHolders-1)]
	h.holders.Add(p.shelf(), append([]reference.Repository{p.repository}, others...))
}

func (h *held) forget(p place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.places.Remove(p)
	known, _ := h.holders.Get(p.shelf())
	h.holders.Add(p.shelf(), slices.DeleteFunc(slices.Clone(known), func(r reference.Repository) bool { return r == p.repository }))
}

// elsewhere returns a repository of the same registry that holds the blob; zero if none is known, or
// if the registry does not mount blobs.
func (h *held) elsewhere(p place) reference.Repository {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.denies(p.repository.Registry()) {
		return reference.Repository{}
	}
	known, _ := h.holders.Get(p.shelf())
	for _, r := range known {
		if r != p.repository && h.isNewer(place{r, p.digest}, offeredFor) {
			return r
		}
	}
	return reference.Repository{}
}

// mounts reports whether the registry may mount blobs.
func (h *held) mounts(registry string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.denies(registry)
}

func (h *held) denies(registry string) bool {
	d := h.habits[registry]
	return d.denied >= maxDenied && h.now().Sub(d.last) < offeredFor
}

// isProven reports whether the registry mounted the last blob that it was asked to mount.
func (h *held) isProven(registry string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.habits[registry].denied == proven
}

// mounted records whether the registry has mounted the blob from the repository.
func (h *held) mounted(from place, taken bool) {
	if !taken {
		h.forget(from)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d := habit{proven, h.now()}
	if !taken {
		d.denied = max(h.habits[from.repository.Registry()].denied, 0) + 1
	}
	h.habits[from.repository.Registry()] = d
}
