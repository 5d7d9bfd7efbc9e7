// Package run stores runs (published plans and republishes) and the progress of their chunks. The
// records only describe: a run is over when the stream holds none of its chunks.
package run

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/exit"
)

const (
	// Bucket holds runs and the progress of their chunks.
	Bucket = "mirror_runs"
	// Keep is how long a run is kept.
	Keep = 30 * 24 * time.Hour
)

// ErrNotFound is returned if no run has the given ID.
var ErrNotFound = exit.Usage.New("no such run")

// The kinds of runs.
const (
	KindPlan      = "plan"
	KindRepublish = "republish"
)

// Run is a published plan or republish.
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
	// Interrupted is true if the process that published the run was killed meanwhile. Such a
	// plan is cancelled, and such a republish has only a part of the failures.
	Interrupted bool `json:"interrupted,omitempty"`
	// Partial is true for a plan of one chunk of the list (CHUNK_NUMBER).
	Partial bool `json:"partial,omitempty"`
	// Fingerprint identifies the list and how it was split. By it, `planner mirror` recognizes a
	// run that it has not finished.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Warnings are about the planned list, such as a repository that its namespace no longer
	// lists.
	Warnings []string `json:"warnings,omitempty"`
	// FailedNamespaces are namespaces that could not be listed, or listed too few repositories,
	// each with the reason. The run has their earlier repositories, and ends as failed.
	FailedNamespaces []string `json:"failed_namespaces,omitempty"`
	// Ended is StateCancelled or StateSuperseded if the run was ended before all of its chunks
	// were done, at EndedAt. Workers drop the chunks of such a run.
	Ended   string    `json:"ended,omitempty"`
	EndedAt time.Time `json:"ended_at,omitzero"`
}

// IsWhole reports whether the run is a plan of the whole list.
func (r Run) IsWhole() bool { return r.Kind == KindPlan && !r.Partial }

// NewID returns the ID of a run. IDs sort by time, to the millisecond. An ID is one token of a
// subject.
func NewID(now time.Time) string {
	now = now.UTC()
	return fmt.Sprintf("%s-%03d-%04x", now.Format("20060102-150405"), now.Nanosecond()/int(time.Millisecond), rand.N(1<<16))
}

var id = regexp.MustCompile(`^\d{8}-\d{6}-\d{3}-[0-9a-f]{4}$`)

// ValidID reports whether s has the form of an ID.
func ValidID(s string) bool { return id.MatchString(s) }

// Tally counts the outcomes of images.
type Tally struct {
	Total     int `json:"total"`
	Copied    int `json:"copied"`
	Tagged    int `json:"tagged"`
	Unchanged int `json:"unchanged"`
	Skipped   int `json:"skipped"`
	Vanished  int `json:"vanished"` // the source has listed the tag, but does not have it
	Waiting   int `json:"waiting"`  // the tag has not had its digest for long enough
	Kept      int `json:"kept"`     // the source has moved an immutable tag, and the destination keeps the old image
	Failed    int `json:"failed"`
	// Dropped images were not tried, or not tried again, because their run was cancelled or
	// superseded. A repository that was not resolved counts as one image.
	Dropped int `json:"dropped"`
}

// Outcome is the outcome of an image.
type Outcome string

// The outcomes of images. Dropped is another one. Each has a field of Tally.
const (
	Copied    Outcome = "copied"
	Tagged    Outcome = "tagged"
	Unchanged Outcome = "unchanged"
	Skipped   Outcome = "skipped"
	Vanished  Outcome = "vanished"
	Kept      Outcome = "kept"
	Waiting   Outcome = "waiting"
	Failed    Outcome = "failed"
)

// Outcomes are all outcomes, in the order of reports.
var Outcomes = [...]Outcome{Copied, Tagged, Unchanged, Skipped, Waiting, Vanished, Kept, Failed, Dropped}

// Of returns the field for an outcome.
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
	case Waiting:
		return &t.Waiting
	case Kept:
		return &t.Kept
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

// Ended returns the number of images that have an outcome.
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
	Dropped = "dropped" // because its run has ended
)

// Progress is the progress of one message.
type Progress struct {
	State   string    `json:"state"`
	Images  Tally     `json:"images"`
	Pulls   int       `json:"pulls"`
	Bytes   int64     `json:"bytes"`
	Due     time.Time `json:"due,omitzero"`   // of a snoozed message
	Away    string    `json:"away,omitempty"` // the registry that a snoozed message waits for, if it is away
	Updated time.Time `json:"updated"`
	// Mark is the mark of the messages that replace this one, once a worker is done with it; see
	// subject.Address.Mark. Records of older workers have none.
	Mark string `json:"mark,omitempty"`
	// UnderWay are the copies of a running message, as of Updated.
	UnderWay []Copy `json:"under_way,omitempty"`
}

// Over reports whether a worker is done with the message.
func (p Progress) Over() bool { return p.State == Done || p.State == Dropped }

// Copy is a running copy of an image.
type Copy struct {
	Image       string    `json:"image"` // with one of its tags, as in a list
	Destination string    `json:"destination"`
	Worker      string    `json:"worker"` // host name
	Bytes       int64     `json:"bytes"`  // sent to the destination so far
	Rate        int64     `json:"rate"`   // of the last seconds, in bytes a second
	Since       time.Time `json:"since"`
}

// copiesKnownFor is how long copies count as running after a worker has recorded them. Workers
// record them every few seconds, so after a minute the worker has probably died.
const copiesKnownFor = time.Minute

// copies returns the running copies, or nil if the record is too old.
func (p Progress) copies() []Copy {
	if time.Since(p.Updated) > copiesKnownFor {
		return nil
	}
	return p.UnderWay
}

// due returns when a planned chunk is due, by its token.
func (r Run) due(token string) time.Time {
	number, err := strconv.Atoi(strings.SplitN(token, "p", 2)[0])
	if err != nil {
		return time.Time{}
	}
	return r.FirstDue.Add(time.Duration(number-1) * r.Interval)
}

// The states of a run.
const (
	StateWaiting    = "waiting"
	StateRunning    = "running"
	StateSnoozed    = "snoozed"
	StateDone       = "done"
	StateFailed     = "failed" // over, with failures
	StateCancelled  = "cancelled"
	StateSuperseded = "superseded"
	StateLost       = "lost" // over, with chunks that are neither done nor dropped
)

// Chunks counts the chunks of a run by their state.
type Chunks struct {
	Total   int `json:"total"`
	Waiting int `json:"waiting"`
	Running int `json:"running"`
	Snoozed int `json:"snoozed"`
	Done    int `json:"done"`
	// Dropped chunks belong to a run that was cancelled or superseded, and no worker works on
	// them. Some of their images may have been mirrored.
	Dropped int `json:"dropped"`
	// Lost chunks are not done, and the broker does not hold them, although the run was not
	// ended.
	Lost int `json:"lost"`
}

// Registry is the limit of a registry, and how much a run has left to pull from it. Of
// destinations, only closed ones are included.
type Registry struct {
	Registry    string     `json:"registry"`
	Limit       int        `json:"limit"`
	Window      string     `json:"window"`
	Spent       int        `json:"spent"`
	Free        *int       `json:"free"` // nil if pulls are not counted
	ClosedUntil *time.Time `json:"closed_until"`
	// ClosedSince is since when the registry is away; nil if it is not. Workers probe it at
	// ClosedUntil; it is away until a probe succeeds.
	ClosedSince *time.Time `json:"closed_since,omitempty"`
	// RefusedSince is since when a registry has refused all requests because of its limit; nil
	// if it is open or away.
	RefusedSince *time.Time `json:"refused_since,omitempty"`
	Reason       string     `json:"reason"`
	NextSlot     *time.Time `json:"next_slot"`
	// ToPull is an estimate of the pulls that are left. If ToPullAtLeast is true, it is a lower
	// bound.
	ToPull        int  `json:"to_pull"`
	ToPullAtLeast bool `json:"to_pull_at_least"`
	// EstimatedDone is when the budget allows the last of these pulls; nil if it allows all now.
	EstimatedDone *time.Time `json:"estimated_done"`
}

// Status is the state of a run. Its JSON is the output of planner status -o json.
type Status struct {
	Name     string     `json:"name"`
	Run      string     `json:"run"`
	State    string     `json:"state"`
	Chunks   Chunks     `json:"chunks"`
	Images   Tally      `json:"images"`
	Pulls    int        `json:"pulls"`
	Bytes    int64      `json:"bytes"`
	Started  time.Time  `json:"started"`
	Finished *time.Time `json:"finished"`
	NextDue  *time.Time `json:"next_due"`
	// EstimatedDone is the earliest time at which the run can be done, given its schedule and
	// the budgets; nil if neither delays it.
	EstimatedDone *time.Time `json:"estimated_done"`
	// EstimatedAtLeast is true if the run may have more to pull than EstimatedDone includes.
	EstimatedAtLeast bool       `json:"estimated_at_least"`
	Registries       []Registry `json:"registries"`
	UnderWay         []Copy     `json:"under_way"` // the oldest first
	// Failures are those of the mirror name, from all runs.
	Failures Failures `json:"failures"`
	// Partial, Warnings and FailedNamespaces are those of the Run.
	Partial          bool     `json:"partial,omitempty"`
	Warnings         []string `json:"warnings,omitempty"`
	FailedNamespaces []string `json:"failed_namespaces,omitempty"`
	// Unresolved is the number of chunks that have images which are not counted yet.
	Unresolved int `json:"-"`
	// WorkerMissing is true if a chunk is due and no worker has recorded that it works on it.
	WorkerMissing bool `json:"-"`
	// Away are the registries that are away, if all chunks that are left wait for them.
	Away []string `json:"-"`
}

// Failures counts the failures of a mirror name. The planner sets it.
type Failures struct {
	Images     int `json:"images"`     // failed images of the list
	LeftList   int `json:"left_list"`  // failed images that have left the list
	Unreadable int `json:"unreadable"` // messages among the failures that are not records
}

// NotBefore sets EstimatedDone to t if EstimatedDone is earlier or nil.
func (s *Status) NotBefore(t time.Time) {
	if s.EstimatedDone == nil || s.EstimatedDone.Before(t) {
		s.EstimatedDone = &t
	}
}

// Over reports whether the run is over.
func (s Status) Over() bool {
	return s.State != StateWaiting && s.State != StateRunning && s.State != StateSnoozed
}
