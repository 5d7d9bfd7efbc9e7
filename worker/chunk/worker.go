// Package chunk does the work of one chunk: resolve, compare, copy. It knows of
// registries, and of the broker only that failures are kept there.
package chunk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const (
	// staleAfter is how long a digest is believed: a tag that was resolved
	// longer ago is looked up again before it is put, so that it never goes
	// backwards.
	staleAfter = 5 * time.Minute
	// requests bounds the small requests of a worker that are under way at once.
	requests = 32
	// maxPause is how long a chunk is held while images wait for their next try.
	// What has to wait longer is snoozed.
	maxPause = 5 * time.Second
)

// Failures keeps what was given up.
type Failures interface {
	Add(ctx context.Context, name string, r failure.Record) error
	// Any reports whether there may be failures of a registry under a mirror name.
	Any(ctx context.Context, name, registry string) (bool, error)
	Subtract(ctx context.Context, name, registry, repository string, mirrored func(source string) bool) (int, error)
}

// Notes are what the workers of a fleet remember. Losing a note costs some requests.
type Notes interface {
	// Resolved notes that the chunk's run has resolved the entry.
	Resolved(ctx context.Context, c message.Chunk, entry message.Repository) error
	// Superseded reports whether a newer run has resolved the entry.
	Superseded(ctx context.Context, c message.Chunk, entry message.Repository) (bool, error)
	// NoteAbsent notes that an index has nothing of what is wanted, so that it is not pulled
	// again. Absent reports whether that was noted.
	NoteAbsent(ctx context.Context, digest reference.Digest, wanted platform.Wanted) error
	Absent(ctx context.Context, digest reference.Digest, wanted platform.Wanted) (bool, error)
	// NoteCounted notes how many tags a source lists, or lists at least, if not the whole of it
	// was listed. last is what Counted has returned: what was noted. AllCounted does
	// so for several sources in one go.
	NoteCounted(ctx context.Context, source reference.Repository, last compare.Listing, tags int, whole bool) error
	Counted(ctx context.Context, source reference.Repository) (compare.Listing, error)
	AllCounted(ctx context.Context, sources []reference.Repository) (map[reference.Repository]compare.Listing, error)
	compare.Ages
	// Backups returns the backups of a destination's tags, the oldest first. NoteBackups
	// replaces those of one tag.
	Backups(ctx context.Context, destination reference.Repository) (map[reference.Tag][]compare.Backup, error)
	NoteBackups(ctx context.Context, destination reference.Repository, tag reference.Tag, backups []compare.Backup) error
	// NoteSightings notes since when tags of a source have had their digests.
	NoteSightings(ctx context.Context, source reference.Repository, tags map[reference.Tag]compare.Sighting) error
	// NoteHeld notes what a destination has under immutable tags. Held returns what was noted.
	NoteHeld(ctx context.Context, destination reference.Repository, tags map[reference.Tag]compare.Held) error
	Held(ctx context.Context, destination reference.Repository) (map[reference.Tag]compare.Held, error)
}

// Observer follows the work as it goes on.
type Observer interface {
	Image(registry string, o run.Outcome)
	Progress(images run.Tally, pulls int, bytes int64)
	// Changed is called when tags were put at the destination, or found to be gone from the
	// source, before the images count as done.
	Changed(changes []change.Change)
	// Seen is called with what has become of an image of an entry or, without the name of a
	// tag, of the listing of its repository.
	Seen(entry message.Repository, tag catalog.Tag)
	// Unlisted returns the tags that the source of an entry had, and that are not among those
	// it has now.
	Unlisted(ctx context.Context, entry message.Repository, listed []reference.Tag) []reference.Tag
	// Known returns the tags that the source of an entry had in this run and in earlier ones.
	Known(ctx context.Context, entry message.Repository) ([]catalog.Tag, error)
	// Listed is called with what an entry means according to a listing of its source that
	// selects something.
	Listed(entry message.Repository, listing holding.Listing)
	// Copying is called when the copy of an image begins, with what counts its bytes,
	// and what it returns when the copy has ended.
	Copying(image, destination string, moved *meter.Meter) (ended func())
}

// Parts is everything that a worker needs. None is optional.
type Parts struct {
	// Connect returns what the chunk is worked off with. Pulls count for its mirror name.
	Connect     func(ctx context.Context, c message.Chunk) (resolve.Resolver, *mirror.Mirror, error)
	Failures    Failures
	Notes       Notes
	Registries  Registries
	Concurrency int  // copies at once
	MaxAttempts int  // of an image in a run
	Alone       bool // no other worker takes parts of a chunk
	// Backoff returns how long an image waits after this many tries.
	Backoff func(attempt int) time.Duration
	// Deletions are the destinations that are known to delete a tag alone.
	Deletions deletion.Hosts
	Log       *slog.Logger
}

// ErrIncomplete is returned by New if a part is missing.
var ErrIncomplete = errors.New("a part of the worker is missing")

// Worker works off chunks, several at once if it is given them. Only New makes one that works.
type Worker struct {
	Parts
	now    func() time.Time
	slots  chan struct{} // of small requests
	copies *schedule
}

// New returns a worker made of the parts. If one is missing, the error is ErrIncomplete and
// names it.
func New(p Parts) (*Worker, error) {
	for name, missing := range map[string]bool{
		"Connect": p.Connect == nil, "Failures": p.Failures == nil, "Notes": p.Notes == nil, "Registries": p.Registries == nil,
		"Concurrency": p.Concurrency < 1, "MaxAttempts": p.MaxAttempts < 1,
		"Backoff": p.Backoff == nil, "Deletions": p.Deletions.IsZero(), "Log": p.Log == nil,
	} {
		if missing {
			return nil, fmt.Errorf("%w: %s", ErrIncomplete, name)
		}
	}
	return &Worker{Parts: p, now: time.Now, slots: make(chan struct{}, requests), copies: newSchedule()}, nil
}

// Idle waits until the copies of the worker's chunks leave room for those of another chunk, or
// until ctx ends.
func (w *Worker) Idle(ctx context.Context) { w.copies.idle(ctx, w.Concurrency) }

// Delivery is a chunk as it came.
type Delivery struct {
	Chunk message.Chunk
	// Fresh deliveries may be believed: the first one of a message, and young.
	Fresh bool
	// Remainder is what an earlier delivery of the chunk has left.
	Remainder bool
	// Stopping is closed when no new copy may be started.
	Stopping <-chan struct{}
	Observer Observer
}
