package resolve

import (
	"fmt"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// maxShown is how many bytes of names an error shows: it is a line of at most 1 KiB.
const maxShown = 512

// invalid are the names that a registry lists as tags and no tag can have.
type invalid struct {
	count int
	shown []string // the first of them, quoted
	bytes int      // of shown
}

// refuse notes a name, unless the selection does not want it anyway.
func (p *pick) refuse(name string) {
	if !p.matcher.Match(name) {
		return
	}
	p.invalid.count++
	if quoted := reference.Quote(name); p.invalid.bytes+len(quoted) <= maxShown {
		p.invalid.shown = append(p.invalid.shown, quoted)
		p.invalid.bytes += len(quoted)
	}
}

// about is the error about the repository that lists the names, nil without any.
func (i invalid) about(repository reference.Repository) error {
	if i.count == 0 {
		return nil
	}
	names := strings.Join(i.shown, ", ")
	if more := i.count - len(i.shown); more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return &registry.Error{Op: registry.OpTags, Repository: repository,
		Err: fmt.Errorf("%w: %s; %s", reference.ErrInvalidTag, names, reference.ExpectedTag)}
}
