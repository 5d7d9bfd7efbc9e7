// Package comparetest keeps in memory what workers note at the broker, for tests.
package comparetest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// Memory holds the notes of workers. It drops what is set to nil. Its zero value is empty. The
// fields may be used while no worker runs.
type Memory struct {
	AbsentImages    map[string]bool // by digest and wanted platforms
	HeldTags        map[reference.Repository]map[reference.Tag]compare.Held
	Counts          map[reference.Repository]compare.Listing
	SightedTags     map[reference.Repository]map[reference.Tag]resolve.Sighting
	ReleasedDigests map[reference.Digest]bool
	BackupTags      map[reference.Repository]map[reference.Tag][]compare.Backup

	mu sync.Mutex
}

// Absent implements chunk.Notes.
func (n *Memory) Absent(_ context.Context, digest reference.Digest, w platform.Wanted) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.AbsentImages[fmt.Sprint(digest, w)], nil
}

// NoteAbsent implements chunk.Notes.
func (n *Memory) NoteAbsent(_ context.Context, digest reference.Digest, w platform.Wanted) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.AbsentImages == nil {
		n.AbsentImages = map[string]bool{}
	}
	n.AbsentImages[fmt.Sprint(digest, w)] = true
	return nil
}

// Held implements chunk.Notes.
func (n *Memory) Held(_ context.Context, destination reference.Repository) (map[reference.Tag]compare.Held, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.HeldTags[destination]), nil
}

// Counted implements chunk.Notes.
func (n *Memory) Counted(_ context.Context, source reference.Repository) (compare.Listing, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Counts[source], nil
}

// AllCounted implements chunk.Notes.
func (n *Memory) AllCounted(_ context.Context, sources []reference.Repository) (map[reference.Repository]compare.Listing, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := map[reference.Repository]compare.Listing{}
	for _, source := range sources {
		last[source] = n.Counts[source]
	}
	return last, nil
}

// NoteCounted implements chunk.Notes.
func (n *Memory) NoteCounted(_ context.Context, source reference.Repository, _ compare.Listing, tags int, whole bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Counts == nil {
		n.Counts = map[reference.Repository]compare.Listing{}
	}
	if whole || tags > n.Counts[source].Tags {
		n.Counts[source] = compare.Listing{Tags: tags, At: time.Now()}
	}
	return nil
}

// NoteHeld implements chunk.Notes.
func (n *Memory) NoteHeld(_ context.Context, destination reference.Repository, tags map[reference.Tag]compare.Held) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.HeldTags == nil {
		n.HeldTags = map[reference.Repository]map[reference.Tag]compare.Held{}
	}
	if n.HeldTags[destination] == nil {
		n.HeldTags[destination] = map[reference.Tag]compare.Held{}
	}
	for tag, h := range tags {
		h.Fresh = true
		n.HeldTags[destination][tag] = h
	}
	return nil
}

// Sighted implements compare.Ages.
func (n *Memory) Sighted(_ context.Context, source reference.Repository) (map[reference.Tag]resolve.Sighting, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.SightedTags[source]), nil
}

// NoteSightings implements chunk.Notes.
func (n *Memory) NoteSightings(_ context.Context, source reference.Repository, tags map[reference.Tag]resolve.Sighting) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.SightedTags == nil {
		n.SightedTags = map[reference.Repository]map[reference.Tag]resolve.Sighting{}
	}
	if n.SightedTags[source] == nil {
		n.SightedTags[source] = map[reference.Tag]resolve.Sighting{}
	}
	maps.Copy(n.SightedTags[source], tags)
	return nil
}

// Released implements compare.Ages.
func (n *Memory) Released(_ context.Context, _ reference.Repository, digest reference.Digest) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ReleasedDigests[digest], nil
}

// Backups implements chunk.Notes.
func (n *Memory) Backups(_ context.Context, destination reference.Repository) (map[reference.Tag][]compare.Backup, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.BackupTags[destination]), nil
}

// NoteBackups implements chunk.Notes.
func (n *Memory) NoteBackups(_ context.Context, destination reference.Repository, tag reference.Tag, backups []compare.Backup) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.BackupTags == nil {
		n.BackupTags = map[reference.Repository]map[reference.Tag][]compare.Backup{}
	}
	if n.BackupTags[destination] == nil {
		n.BackupTags[destination] = map[reference.Tag][]compare.Backup{}
	}
	n.BackupTags[destination][tag] = backups
	return nil
}
