// Package run keeps what is known of each run: what the planner published, and
// what the workers made of it. It only counts and describes; whether a run is
// over is told by the stream alone.
package run

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/osism/skopeo-worker/shared/exit"
)

const (
	// Bucket holds runs and the progress of their chunks.
	Bucket = "mirror_runs"
	// Keep is how long a run is kept.
	Keep = 30 * 24 * time.Hour
)

// ErrNotFound is returned where no run has the given id.
var ErrNotFound = exit.Usage.New("no such run")

// The kinds of runs.
const (
	KindPlan      = "plan"
	KindRepublish = "republish"
)

// Run is what the planner did.
type Run struct {
	Name        string        `json:"name"`
	ID          string        `json:"run"`
	Kind        string        `json:"kind"`
	Chunks      int           `json:"chunks"` // messages published
	Entries     int           `json:"entries"`
	Destination string        `json:"destination,omitempty"`
	Started     time.Time     `json:"started"`
	FirstDue    time.Time     `json:"first_due"`
	Interval    time.Duration `json:"interval"`
	Published   bool          `json:"published"`
	// Fingerprint stands for the list and how it was split, so that `planner mirror`
	// knows the run that it did not finish.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Ended is StateCancelled or StateSuperseded if the run was ended before all of its
	// chunks were done, and EndedAt is when. Workers drop the chunks of such a run.
	Ended   string    `json:"ended,omitempty"`
	EndedAt time.Time `json:"ended_at,omitzero"`
}

// NewID returns the id of a run: it sorts by time, to the millisecond, and is one
// token of a subject.
func NewID(now time.Time) string {
	now = now.UTC()
	return fmt.Sprintf("%s-%03d-%04x", now.Format("20060102-150405"), now.Nanosecond()/int(time.Millisecond), rand.N(1<<16))
}

var id = regexp.MustCompile(`^\d{8}-\d{6}-\d{3}-[0-9a-f]{4}$`)

// ValidID reports whether NewID may have made s.
func ValidID(s string) bool { return id.MatchString(s) }

// Tally counts the outcomes of images.
type Tally struct {
	Total     int `json:"total"`
	Copied    int `json:"copied"`
	Tagged    int `json:"tagged"`
	Unchanged int `json:"unchanged"`
	Skipped   int `json:"skipped"`
	Vanished  int `json:"vanished"` // the source has listed the tag, and denies it
	Failed    int `json:"failed"`
	// Dropped images were not tried, or not tried again, because their run was cancelled
	// or superseded. A repository that was not resolved by then counts as one.
	Dropped int `json:"dropped"`
}

// Outcome is what became of an image.
type Outcome string

// The outcomes, beside Dropped. Each has a field of Tally.
const (
	Copied    Outcome = "copied"
	Tagged    Outcome = "tagged"
	Unchanged Outcome = "unchanged"
	Skipped   Outcome = "skipped"
	Vanished  Outcome = "vanished"
	Failed    Outcome = "failed"
)

// Outcomes are all outcomes, in the order in which people see them.
var Outcomes = [...]Outcome{Copied, Tagged, Unchanged, Skipped, Vanished, Failed, Dropped}

// Of returns the number of images with an outcome, to be read or changed.
func (t *Tally) Of(o Outcome) *int {
	switch o {
	case Copied:
		return &t.Copied
	case Tagged:
		return &t.Tagged
	case Unchanged:
		return &t.Unchanged
	case Skipped:
		return &t.Skipped
	case Vanished:
		return &t.Vanished
	case Failed:
		return &t.Failed
	case Dropped:
		return &t.Dropped
	}
	panic("run: no field of Tally for " + string(o))
}

func (t *Tally) add(o Tally) {
	t.Total += o.Total
	for _, outcome := range Outcomes {
		*t.Of(outcome) += *o.Of(outcome)
	}
}

// Ended counts the images that have an outcome.
func (t Tally) Ended() int {
	n := 0
	for _, outcome := range Outcomes {
		n += *t.Of(outcome)
	}
	return n
}

// The states of one message.
const (
	Running = "running"
	Snoozed = "snoozed"
	Done    = "done"
	Dropped = "dropped" // with its run, before it was tried or tried again
)

// Progress is how far a worker has come with one message.
type Progress struct {
	State   string    `json:"state"`
	Images  Tally     `json:"images"`
	Pulls   int       `json:"pulls"`
	Bytes   int64     `json:"bytes"`
	Due     time.Time `json:"due,omitzero"`   // of a snoozed message
	Away    string    `json:"away,omitempty"` // the registry that a snoozed message waits for, where that is away
	Updated time.Time `json:"updated"`
	// UnderWay are the copies of a running message, as of Updated.
	UnderWay []Copy `json:"under_way,omitempty"`
}

// Over reports whether a worker is done with the message.
func (p Progress) Over() bool { return p.State == Done || p.State == Dropped }

// Copy is an image under way.
type Copy struct {
	Image       string    `json:"image"` // with one of its tags, as the list would have it
	Destination string    `json:"destination"`
	Worker      string    `json:"worker"` // host name
	Bytes       int64     `json:"bytes"`  // that the destination has taken so far
	Rate        int64     `json:"rate"`   // of late, in bytes a second
	Since       time.Time `json:"since"`
}
