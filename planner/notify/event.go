// Package notify sends notifications about problems. It sends one for each event, even if several
// processes run or one restarts.
package notify

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/change"
)

// kind is the kind of an event.
type kind string

// The kinds of events.
const (
	kindFailed kind = "failed" // a run has ended with failures
	kindDone   kind = "done"   // a run has ended, and all is well
	kindLost   kind = "lost"   // a run has lost chunks
	kindStale  kind = "stale"  // the last complete run ended longer than MAX_AGE ago
	kindClosed kind = "closed" // a registry or destination has been closed for an hour
	kindMoved  kind = "moved"  // sources have moved immutable tags
	kindBudget kind = "budget" // a budget does not suffice before the next schedule
	kindTest   kind = "test"
)

// event is the reason for a notification. Receivers with http(s) URLs get it as JSON.
type event struct {
	Version  int       `json:"version"`      // eventVersion
	ID       string    `json:"id,omitempty"` // stays the same if the message is sent again
	Kind     kind      `json:"event"`
	Mirror   string    `json:"mirror,omitempty"`
	Run      string    `json:"run,omitempty"`
	Registry string    `json:"registry,omitempty"`
	Title    string    `json:"title"`
	Text     string    `json:"text"`
	At       time.Time `json:"at"`
	// If a run has ended: the number of failed images of the list, the images that had not failed when
	// the run before ended, and those that have recovered since.
	Failing   int      `json:"failing"`
	New       []string `json:"new,omitempty"`
	Recovered []string `json:"recovered,omitempty"`
	// Vanished are the images that their source no longer has.
	Vanished []string `json:"vanished,omitempty"`
	// Moved are immutable tags that sources have moved, with the new digest, which is not mirrored.
	Moved []string `json:"moved,omitempty"`
}

const (
	// eventVersion is the version of the JSON of events.
	eventVersion = 1
	// maxShown is how many images a text names at most.
	maxShown = 10
	// maxImages is how many images an event lists at most.
	maxImages = 1000
)

// ended returns the event of a run that has ended. failing are the images that have failed by then, and
// before those that had failed when the run before ended.
func ended(mirror string, r overview.Run, failing []string, before failed, vanished []string) event {
	e := event{Version: eventVersion, Kind: kindDone, Mirror: mirror, Run: r.ID, At: *r.Status.Finished, Failing: len(failing)}
	namespaces := r.Status.FailedNamespaces
	e.New, e.Recovered = without(failing, before.has()), without(before.Images, failed{Images: failing}.has())
	var b strings.Builder
	switch {
	case len(failing) == 0 && len(namespaces) > 0:
		e.Kind, e.Title = kindFailed, fmt.Sprintf("Mirror %s: namespaces could not be listed", mirror)
		fmt.Fprintf(&b, "Run %s has ended. Every image of the known repositories is mirrored.", r.ID)
	case len(failing) == 0 && !r.IsWhole():
		e.Title = fmt.Sprintf("Mirror %s: no image of the list is among the failures", mirror)
		fmt.Fprintf(&b, "Run %s has ended. It did not have the whole list.", r.ID)
	case len(failing) == 0:
		e.Title = "Mirror " + mirror + " is complete"
		fmt.Fprintf(&b, "Run %s has ended. Every image of the list is mirrored", r.ID)
		if waiting := r.Status.Images.Waiting; waiting > 0 {
			fmt.Fprintf(&b, ", except that %s not old enough", are(waiting))
		}
		b.WriteString(".")
	default:
		e.Kind = kindFailed
		e.Title = fmt.Sprintf("Mirror %s: %s failed", mirror, images(len(failing)))
		fmt.Fprintf(&b, "Run %s has ended. %s not mirrored, %d of them new since the run before.", r.ID, are(len(failing)), len(e.New))
	}
	name(&b, "Namespaces that could not be listed, or list too little", namespaces)
	name(&b, "New", e.New)
	name(&b, "Recovered", e.Recovered)
	name(&b, "Vanished at the source", vanished)
	e.Vanished = vanished[:min(len(vanished), maxImages)]
	e.New, e.Recovered = e.New[:min(len(e.New), maxImages)], e.Recovered[:min(len(e.Recovered), maxImages)]
	e.Text = b.String()
	return e
}

// moved returns the event about immutable tags that sources have moved.
func moved(mirror, run string, kept []change.Change, at time.Time) event {
	e := event{Version: eventVersion, Kind: kindMoved, Mirror: mirror, Run: run, At: at, Title: fmt.Sprintf("Mirror %s: immutable tags of %s have moved", mirror, images(len(kept)))}
	var b strings.Builder
	b.WriteString("Sources have moved immutable tags. This may be an attack. The destination keeps its images.")
	var lines []string
	for _, c := range kept {
		e.Moved = append(e.Moved, c.Image()+"@"+c.Refused.String())
		lines = append(lines, fmt.Sprintf("%s: the destination has %s, the source %s", c.Image(), cmp.Or(c.From.String(), "none"), c.Refused))
	}
	name(&b, "Moved", lines)
	e.Moved = e.Moved[:min(len(e.Moved), maxImages)]
	e.Text = b.String()
	return e
}

// name adds a list of images to a text, at most maxShown.
func name(b *strings.Builder, title string, all []string) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(b, "\n\n%s:", title)
	for _, image := range all[:min(len(all), maxShown)] {
		fmt.Fprintf(b, "\n- %s", image)
	}
	if more := len(all) - maxShown; more > 0 {
		fmt.Fprintf(b, "\n- and %d more", more)
	}
}

func without(all []string, known func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(all), known)
}

func images(n int) string { return display.Count(n, "image", "images") }

func are(n int) string { return display.Count(n, "image is", "images are") }

// hash returns a short key for a text.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:12])
}
