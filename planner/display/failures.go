package display

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/failure"
)

// The columns at which an image is shown below its repository, and the reason below the
// image.
const (
	imageIndent  = 2
	reasonIndent = 6
)

// Failures shows what failed, by repository, and how to retry it; then the failures that
// have left the list, and the messages that cannot be read, and how to delete them.
func Failures(w io.Writer, records []failure.Record) {
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
		p.line("There are no failed images.")
	} else {
		p.records(listed)
		p.line("%s of %s failed. Once you have fixed the cause, retry with:",
			images(failed(listed)), count(len(listed), "repository", "repositories"))
		p.line("  %s", republish(listed))
	}
	if len(left) > 0 {
		p.line("")
		p.records(left)
		p.line("The list no longer has %s of %s; kept for %s. Delete now with:",
			count(failed(left), "failed image", "failed images"), count(len(left), "repository", "repositories"), span(failure.KeepLeft))
		p.line("  planner forget --left-list")
	}
	if len(unreadable) > 0 {
		p.line("")
		p.unreadable(unreadable)
	}
}

// only returns the records with those images for which keep returns true.
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
		for _, i := range r.Images {
			p.image(i, r.Repository)
		}
		p.line("")
	}
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
	p.line("%s among the failures cannot be read. Delete one with:", count(len(records), "message", "messages"))
	p.line("  planner forget '%s'", printable(records[0].Repository))
}

// image shows one failed image.
func (p *page) image(i failure.Image, repository string) {
	what := i.Source
	if what == repository {
		what += " (the repository itself)"
	}
	left := ""
	if !i.LeftList.IsZero() {
		left = ", left the list by " + moment(i.LeftList)
	}
	p.line("%*s%s, %s%s:", imageIndent, "", printable(what), count(i.Attempts, "attempt", "attempts"), left)
	p.wrapped(reasonIndent, i.Reason)
}

// origin returns when and in which run and chunk a failure happened. A republish has no
// chunk number.
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
	// A message that no worker could read is recorded under a name with spaces.
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
