package mirror

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// recently is how long observations of a destination are used.
	recently = 5 * time.Minute

	// maxRecent is how many bytes of manifests are remembered, and maxLarge how many of a single
	// one. Most manifests have some kilobytes.
	maxRecent = 32 << 20
	maxLarge  = 1 << 20

	// maxSeen is how many digests, and how many repositories, are remembered, with some 300 bytes
	// each.
	maxSeen = 20000
)

// recent remembers manifests that were just put to destinations, and digests and tags that
// destinations just lacked. It saves requests. It never counts as proof that a destination has a
// manifest, because others also write and delete there.
type recent struct {
	now func() time.Time

	mu        sync.Mutex
	bytes     int // of manifests
	manifests *lru.Cache[manifestAt, remembered]
	absent    *lru.Cache[manifestAt, time.Time]
	empty     *lru.Cache[reference.Repository, time.Time] // repositories without tags
}

// remembered is a manifest that was put, or that Tag will put under its first tag.
type remembered struct {
	registry.Manifest
	since   time.Time
	pending bool // the manifest was not put yet, but everything that it refers to was
}

func newRecent() *recent {
	r := &recent{now: time.Now}
	// The only error is that of a size below 1.
	r.manifests, _ = lru.NewWithEvict(maxSeen, func(_ manifestAt, m remembered) { r.bytes -= len(m.Raw) })
	r.absent, _ = lru.New[manifestAt, time.Time](maxSeen)
	r.empty, _ = lru.New[reference.Repository, time.Time](maxSeen)
	return r
}

// keep remembers a manifest. It returns false if the manifest is larger than maxLarge.
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

// forget forgets a manifest that the destination lacks or refuses.
func (r *recent) forget(at manifestAt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests.Remove(at)
}

// missing records that the destination lacks the digest, or a tag that the digest will get.
func (r *recent) missing(at manifestAt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.absent.Add(at, r.now())
}

// noTags records that a repository has no tags.
func (r *recent) noTags(repository reference.Repository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.empty.Add(repository, r.now())
}

// lacks reports whether the destination lacked the digest, or a tag for it, a moment ago.
func (r *recent) lacks(at manifestAt) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, ok := r.absent.Get(at)
	if ok && r.isRecent(since) {
		return true
	}
	return r.isBareNow(at.repository)
}

// isBare reports whether the repository had no tags a moment ago.
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
