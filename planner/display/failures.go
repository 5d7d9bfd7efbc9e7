package display

import (
	"fmt"
	"io"
	"strings"

	"github.com/osism/skopeo-worker/shared/failure"
)

// The columns at which an image stands below its repository, and the reason
// below its image.
const (
	imageIndent  = 2
	reasonIndent = 6
)

// Failures shows what was given up, by repository, and how to try it again; then the
// messages that cannot be read, and how to drop them.
func Failures(w io.Writer, records []failure.Record) {
	var p page
	defer p.to(w)
	readable, unreadable := apart(records, func(r failure.Record) bool { return !r.Unreadable })
	if len(readable) == 0 {
		p.line("There are no failed images.")
	} else {
		p.records(readable)
		p.line("%s of %s failed. Once you have fixed the cause, retry with:",
			images(failed(readable)), count(len(readable), "repository", "repositories"))
		p.line("  %s", republish(readable))
	}
	if len(unreadable) > 0 {
		p.line("")
		p.unreadable(unreadable)
	}
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

// unreadable shows what somebody else has put among the failures.
func (p *page) unreadable(records []failure.Record) {
	for _, r := range records {
		p.line("%s (%s)", printable(r.Repository), moment(r.FailedAt))
		for _, i := range r.Images {
			p.wrapped(reasonIndent, i.Reason)
		}
		p.line("")
	}
	p.line("%s among the failures cannot be read. To drop one:", count(len(records), "message", "messages"))
	p.line("  planner forget '%s'", printable(records[0].Repository))
}

// apart splits records in two.
func apart(records []failure.Record, first func(failure.Record) bool) (these, others []failure.Record) {
	for _, r := range records {
		if first(r) {
			these = append(these, r)
		} else {
			others = append(others, r)
		}
	}
	return these, others
}

// image shows one image that was given up.
func (p *page) image(i failure.Image, repository string) {
	what := i.Source
	if what == repository {
		what += " (the repository itself)"
	}
	p.line("%*s%s, %s:", imageIndent, "", printable(what), count(i.Attempts, "attempt", "attempts"))
	p.wrapped(reasonIndent, i.Reason)
}

// origin tells when and where a failure happened. A republish has no chunk
// number.
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

// republish is the command that delivers the failures again.
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
