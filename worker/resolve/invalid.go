package resolve

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// maxShown is how many bytes of names an error shows: it is a line of at most 1 KiB.
const maxShown = 512

// invalid are the names that a registry lists as tags and no tag can have.
type invalid struct {
	seen  map[[sha256.Size]byte]bool // by their hash: a name can be of any length
	shown []string                   // the first of them, quoted
	bytes int                        // of shown
}

// refuse notes a name, unless the selection does not want it anyway.
func (p *pick) refuse(name string) {
	sum := sha256.Sum256([]byte(name))
	if p.invalid.seen[sum] || !p.matcher.Match(name) {
		return
	}
	if p.invalid.seen == nil {
		p.invalid.seen = map[[sha256.Size]byte]bool{}
	}
	p.invalid.seen[sum] = true
	if quoted := reference.Quote(name); len(p.invalid.shown) == 0 || p.invalid.bytes+len(quoted) <= maxShown {
		p.invalid.shown = append(p.invalid.shown, quoted)
		p.invalid.bytes += len(quoted)
	}
}

// about is the error about the repository that lists the names, nil without any.
func (i invalid) about(repository reference.Repository) error {
	if len(i.seen) == 0 {
		return nil
	}
	names := strings.Join(i.shown, ", ")
	if more := len(i.seen) - len(i.shown); more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return &registry.Error{Op: registry.OpTags, Repository: repository,
		Err: fmt.Errorf("%w: %s; %s", reference.ErrInvalidTag, names, reference.ExpectedTag)}
}
