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

// Failures shows what was given up, by repository, and how to try it again.
func Failures(w io.Writer, records []failure.Record) {
	var p page
	defer p.to(w)
	if len(records) == 0 {
		p.line("There are no failed images.")
		return
	}
	for _, r := range records {
		p.line("%s (%s)", printable(r.Repository), origin(r))
		for _, i := range r.Images {
			p.image(i, r.Repository)
		}
		p.line("")
	}
	p.line("%s of %s failed. Once you have fixed the cause, retry with:",
		images(failed(records)), count(len(records), "repository", "repositories"))
	p.line("  %s", republish(records))
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
