// Package chunk works off one chunk: it resolves the entries, compares them with the
// destination, and copies images.
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
	// staleAfter is the age at which a digest is looked up again before its tag is put, so
	// that a tag never goes back to an older image.
	staleAfter = 5 * time.Minute
	// requests is how many small requests a worker sends at the same time.
	requests = 32
	// maxPause is how long a chunk is held while images wait for their next try. Images that
	// must wait longer are requeued.
	maxPause = 5 * time.Second
)

// Failures records the images that have failed.
type Failures interface {
	Add(ctx context.Context, name string, r failure.Record) error
	// Any reports whether there may be failures of a registry under a mirror name.
	Any(ctx context.Context, name, registry string) (bool, error)
	Subtract(ctx context.Context, name, registry, repository string, mirrored func(source string) bool) (int, error)
}

// Notes are what workers remember at the broker. A lost note costs some requests.
type Notes interface {
	// Resolved notes that the chunk's run has resolved the entry.
	Resolved(ctx context.Context, c message.Chunk, entry message.Repository) error
	// Superseded reports whether a newer run has resolved the entry.
	Superseded(ctx context.Context, c message.Chunk, entry message.Repository) (bool, error)
	compare.Notes
	// NoteAbsent notes that an index has no wanted platform, so that it is not pulled again.
	NoteAbsent(ctx context.Context, digest reference.Digest, wanted platform.Wanted) error
	// NoteCounted notes how many tags a source lists; if not the whole listing was read, it
	// has at least as many. last is the earlier note, which Counted has returned. AllCounted
	// returns the notes about several sources with one request.
	NoteCounted(ctx context.Context, source reference.Repository, last compare.Listing, tags int, whole bool) error
	Counted(ctx context.Context, source reference.Repository) (compare.Listing, error)
	AllCounted(ctx context.Context, sources []reference.Repository) (map[reference.Repository]compare.Listing, error)
	// Backups returns the backups of a destination's tags, the oldest first. NoteBackups
	// replaces the backups of one tag.
	Backups(ctx context.Context, destination reference.Repository) (map[reference.Tag][]compare.Backup, error)
	NoteBackups(ctx context.Context, destination reference.Repository, tag reference.Tag, backups []compare.Backup) error
	// NoteSightings notes since when the tags of a source have had their digests.
	NoteSightings(ctx context.Context, source reference.Repository, tags map[reference.Tag]resolve.Sighting) error
	// NoteHeld notes the digests of a destination's immutable tags.
	NoteHeld(ctx context.Context, destination reference.Repository, tags map[reference.Tag]compare.Held) error
}

// Observer receives the progress of a chunk.
type Observer interface {
	// Image is called once for each image that has an outcome.
	Image(registry string, o run.Outcome)
	// Progress is called with the sums of the delivery so far.
	Progress(images run.Tally, pulls int, bytes int64)
	// Compared is called when the work of the chunk is known, before its copies begin. It may be
	// called again for work that is retried.
	Compared()
	// Changed is called after tags were put at the destination or were found to be missing at
	// the source, and before their images count as done.
	Changed(changes []change.Change)
	// Seen is called with the outcome of an image of an entry. Without the name of a tag, it
	// is the outcome of listing the entry's repository.
	Seen(entry message.Repository, tag catalog.Tag)
	// Unlisted returns the tags that the source of an entry had in earlier runs, without those
	// that it lists now.
	Unlisted(ctx context.Context, entry message.Repository, listed []reference.Tag) []reference.Tag
	// Known returns the tags that the source of an entry had in this run and in earlier ones.
	Known(ctx context.Context, entry message.Repository) ([]catalog.Tag, error)
	// Listed is called with a listing of an entry's source, if the entry selects a tag of it.
	Listed(entry message.Repository, listing holding.Listing)
	// Copying is called when the copy of an image begins; moved counts its bytes. ended is
	// called when the copy has ended.
	Copying(image, destination string, moved *meter.Meter) (ended func())
}

// Parts are the parts of a worker. None is optional.
type Parts struct {
	// Connect returns the clients for a chunk. Their pulls count for its mirror name.
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

var errIncomplete = errors.New("a part of the worker is missing")

// Worker works off chunks. It is safe for concurrent use.
type Worker struct {
	Parts
	now    func() time.Time
	slots  chan struct{} // of small requests
	copies *schedule
}

// New returns a worker that is made of the parts. The error names a part that is missing.
func New(p Parts) (*Worker, error) {
	for name, missing := range map[string]bool{
		"Connect": p.Connect == nil, "Failures": p.Failures == nil, "Notes": p.Notes == nil, "Registries": p.Registries == nil,
		"Concurrency": p.Concurrency < 1, "MaxAttempts": p.MaxAttempts < 1,
		"Backoff": p.Backoff == nil, "Deletions": p.Deletions.IsZero(), "Log": p.Log == nil,
	} {
		if missing {
			return nil, fmt.Errorf("%w: %s", errIncomplete, name)
		}
	}
	return &Worker{Parts: p, now: time.Now, slots: make(chan struct{}, requests), copies: newSchedule()}, nil
}

// Idle waits until the worker has room for the copies of another chunk, or until ctx ends.
func (w *Worker) Idle(ctx context.Context) { w.copies.idle(ctx, w.Concurrency) }

// Delivery is a chunk as the broker has delivered it.
type Delivery struct {
	Chunk message.Chunk
	// Fresh is true if the digests in the chunk are current: this is the first delivery of a
	// young message.
	Fresh bool
	// Remainder is true if an earlier delivery of the chunk has left these images.
	Remainder bool
	// Stopping is closed when no new copy may begin.
	Stopping <-chan struct{}
	Observer Observer
}

// Result is what a delivery leaves.
type Result struct {
	// Left are the images that are not done, and After is how long they must wait.
	Left  []message.Repository
	After time.Duration
	// Away is the registry that Left waits for, if that registry is away.
	Away string
	// CutOff is true if this worker, unlike others, cannot reach a registry of the chunk.
	CutOff bool
	// Parts are pieces of a chunk that is too large for one worker. Any worker can take one
	// now. Their digests are current.
	Parts [][]message.Repository
}
