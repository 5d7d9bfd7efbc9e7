package chunk

import (
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

// Result is what became of a chunk.
type Result struct {
	// Left is what is still to do, and After how long it should wait. It is empty if
	// nothing is left.
	Left  []message.Repository
	After time.Duration
	// Away is the registry that it waits for, if that is away.
	Away string
	// CutOff is that only this worker does not reach a registry that was needed.
	CutOff bool
	// Parts is what is too much for one worker, cut into pieces that any worker can
	// take now. The digests in it are fresh.
	Parts [][]message.Repository
}

// progress counts what happens while it happens.
type progress struct {
	mu     sync.Mutex
	images run.Tally
	pulls  int
	bytes  int64
}

// mirrored remembers which images have been seen at the destination, by the
// registry and repository of their failure record.
type mirrored struct {
	mu           sync.Mutex
	repositories map[reference.Repository]map[string]bool
}

func (m *mirrored) add(repository reference.Repository, source string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.repositories == nil {
		m.repositories = map[reference.Repository]map[string]bool{}
	}
	if m.repositories[repository] == nil {
		m.repositories[repository] = map[string]bool{}
	}
	m.repositories[repository][source] = true
}

// remove forgets an image.
func (m *mirrored) remove(repository reference.Repository, source string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.repositories[repository], source)
}
