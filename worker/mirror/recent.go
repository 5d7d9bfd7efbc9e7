package mirror

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// recently is how long what was seen at a destination is of use.
	recently = 5 * time.Minute

	// maxRecent bounds the manifests that are remembered, in bytes, and maxLarge a single
	// one. Most have some kilobytes.
	maxRecent = 32 << 20
	maxLarge  = 1 << 20

	// maxSeen bounds how many digests and repositories are remembered, some 300 bytes
	// each.
	maxSeen = 20000
)

// recent remembers manifests that were just put to destinations, and what destinations were
// just seen without. It saves requests. It is never taken as proof that a destination has
// something: others write and delete there, too.
type recent struct {
	now func() time.Time

	mu        sync.Mutex
	bytes     int // of manifests
	manifests *lru.Cache[manifestAt, remembered]
	absent    *lru.Cache[manifestAt, time.Time]
	empty     *lru.Cache[reference.Repository, time.Time] // without a tag
}

// remembered is a manifest that was put, or that is put under its first tag.
type remembered struct {
	registry.Manifest
	since   time.Time
	pending bool // it was not put yet; everything that it refers to was
}

func newRecent() *recent {
	r := &recent{now: time.Now}
	// The only error is that of a size below 1.
	r.manifests, _ = lru.NewWithEvict(maxSeen, func(_ manifestAt, m remembered) { r.bytes -= len(m.Raw) })
	r.absent, _ = lru.New[manifestAt, time.Time](maxSeen)
	r.empty, _ = lru.New[reference.Repository, time.Time](maxSeen)
	return r
}

// keep remembers a manifest. It returns false if the manifest is too large for that.
func (r *recent) keep(at manifestAt, m registry.Manifest, pending bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests.Remove(at)
	if len(m.Raw) > maxLarge {
		return false
	}
	r.manifests.Add(at, remembered{m, r.now(), pending})
	for r.bytes += len(m.Raw); r.bytes > maxRecent; {
		r.manifests.RemoveOldest()
	}
	return true
}

func (r *recent) get(at manifestAt) (remembered, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m, ok := r.manifests.Get(at); ok && r.isRecent(m.since) {
		return m, true
	}
	return remembered{}, false
}

// forget forgets a manifest that the destination does not have, or does not take.
func (r *recent) forget(at manifestAt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests.Remove(at)
}

// missing notes that the destination has nothing under a tag that the digest is to have, or
// under the digest itself.
func (r *recent) missing(at manifestAt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.absent.Add(at, r.now())
}

// noTags notes that a repository has no tags.
func (r *recent) noTags(repository reference.Repository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.empty.Add(repository, r.now())
}

// lacks reports whether the destination was just seen without a tag of the digest.
func (r *recent) lacks(at manifestAt) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, ok := r.absent.Get(at)
	if ok && r.isRecent(since) {
		return true
	}
	return r.isBareNow(at.repository)
}

// isBare reports whether the repository was just seen without any tag.
func (r *recent) isBare(repository reference.Repository) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isBareNow(repository)
}

func (r *recent) isBareNow(repository reference.Repository) bool {
	since, ok := r.empty.Get(repository)
	return ok && r.isRecent(since)
}

func (r *recent) isRecent(since time.Time) bool { return r.now().Sub(since) < recently }
