package display

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/failure"
)

// The indents of an image below its repository, and of a reason below its image.
const (
	imageIndent  = 2
	reasonIndent = 6
)

// Failures shows the failures of a mirror name by repository, with the command that retries them. Below,
// it shows failures that have left the list, and unreadable messages, with the commands that delete
// them. If there are no failures, it lists names, which are all mirror names.
func Failures(w io.Writer, name string, records []failure.Record, names []string) {
	var p page
	defer p.to(w)
	var unreadable []failure.Record
	readable := slices.DeleteFunc(slices.Clone(records), func(r failure.Record) bool {
		if r.Unreadable {
			unreadable = append(unreadable, r)
		}
		return r.Unreadable
	})
	listed := only(readable, func(i failure.Image) bool { return i.LeftList.IsZero() })
	left := only(readable, func(i failure.Image) bool { return !i.LeftList.IsZero() })
	if len(listed) == 0 {
		p.line("There are no failed images under the name %s.", name)
		others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
		if len(others) > 0 {
			p.wrapped(0, fmt.Sprintf("Set MIRROR_NAME to see those of another name: %s.", strings.Join(others, ", ")))
		}
	} else {
		p.records(listed)
		p.line("%s of %s failed. Once you have fixed the cause, retry with:",
			images(failed(listed)), Count(len(listed), "repository", "repositories"))
		p.line("  %s", republish(listed))
	}
	if len(left) > 0 {
		p.line("")
		p.records(left)
		p.line("The list no longer has %s of %s; kept for %s. Delete now with:",
			Count(failed(left), "failed image", "failed images"), Count(len(left), "repository", "repositories"), span(failure.KeepLeft))
		p.line("  planner forget --left-list")
	}
	if len(unreadable) > 0 {
		p.line("")
		p.unreadable(unreadable)
	}
}

// only returns the records with the images for which keep returns true.
func only(records []failure.Record, keep func(failure.Image) bool) []failure.Record {
	var some []failure.Record
	for _, r := range records {
		r.Images = slices.DeleteFunc(slices.Clone(r.Images), func(i failure.Image) bool { return !keep(i) })
		if len(r.Images) > 0 {
			some = append(some, r)
		}
	}
	return some
}

func (p *page) records(records []failure.Record) {
	for _, r := range records {
		p.line("%s (%s)", printable(r.Repository), origin(r))
		for _, g := range byReason([]failure.Record{r}) {
			for n, i := range g.images {
				end := ""
				if n == len(g.images)-1 {
					end = ":"
				}
				p.line("%*s%s%s", imageIndent, "", imageText(i, r.Repository), end)
			}
			p.wrapped(reasonIndent, g.reason)
		}
		p.line("")
	}
}

// failedAlike are images that failed with the same reason.
type failedAlike struct {
	reason     string
	repository string // of the first image
	images     []failure.Image
}

// byReason groups images by reason, in the order of the first image of each group. Reasons that differ
// only in the name of the image are equal.
func byReason(records []failure.Record) []failedAlike {
	var groups []failedAlike
	index := map[string]int{}
	for _, r := range records {
		for _, i := range r.Images {
			noun := "the image"
			if i.Source == r.Repository {
				noun = "the repository"
			}
			nameless := strings.ReplaceAll(i.Reason, i.Source, noun)
			at, known := index[nameless]
			if !known {
				at = len(groups)
				index[nameless] = at
				groups = append(groups, failedAlike{reason: i.Reason, repository: r.Repository})
			} else {
				groups[at].reason = nameless
			}
			groups[at].images = append(groups[at].images, i)
		}
	}
	return groups
}

// summary returns the first image and the number of the others.
func (g failedAlike) summary() string {
	text := imageText(g.images[0], g.repository)
	if more := len(g.images) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// unreadable shows the messages that cannot be read.
func (p *page) unreadable(records []failure.Record) {
	for _, r := range records {
		p.line("%s (%s)", printable(r.Repository), moment(r.FailedAt))
		for _, i := range r.Images {
			p.wrapped(reasonIndent, i.Reason)
		}
		p.line("")
	}
	p.line("%s among the failures cannot be read. Delete one with:", Count(len(records), "message", "messages"))
	p.line("  planner forget '%s'", printable(records[0].Repository))
}

// imageText describes one failed image.
func imageText(i failure.Image, repository string) string {
	what := i.Source
	if what == repository {
		what += " (the repository itself)"
	}
	left := ""
	if !i.LeftList.IsZero() {
		left = ", left the list by " + moment(i.LeftList)
	}
	return fmt.Sprintf("%s, %s%s", printable(what), Count(i.Attempts, "attempt", "attempts"), left)
}

// origin returns the time, run and chunk of a failure. A republished run has no chunk numbers.
func origin(r failure.Record) string {
	text := "run " + r.Run
	if r.Chunk > 0 {
		text = fmt.Sprintf("chunk %d of %s", r.Chunk, text)
	}
	if !r.FailedAt.IsZero() {
		text += ", " + moment(r.FailedAt)
	}
	return text
}

// republish returns the command that retries the failures.
func republish(records []failure.Record) string {
	// The record of an unreadable message has a name with spaces.
	if len(records) == 1 && !strings.Contains(records[0].Repository, " ") {
		return "planner republish " + printable(records[0].Repository)
	}
	return "planner republish --all"
}

func failed(records []failure.Record) int {
	n := 0
	for _, r := range records {
		n += len(r.Images)
	}
	return n
}
