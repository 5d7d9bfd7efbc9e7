package mirrortest

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Engines run the tests of a package with either engine.
type Engines struct {
	// Builtin is true while this process copies images, and false while skopeo does.
	Builtin bool

	mu     sync.Mutex
	copied map[string]bool // names of tests
}

// Run runs all tests with skopeo, and those for which it has copied an image once more, with
// COPY_ENGINE=builtin. It returns the exit code.
func (e *Engines) Run(m *testing.M) int {
	e.copied = map[string]bool{}
	code := m.Run()
	if len(e.copied) == 0 {
		return code
	}
	names := slices.Sorted(maps.Keys(e.copied))
	if err := flag.Set("test.run", "^("+strings.Join(names, "|")+")$"); err != nil {
		panic(err) // the flag exists
	}
	e.Builtin = true
	fmt.Printf("%d tests once more, with COPY_ENGINE=builtin\n", len(names))
	return max(code, m.Run())
}

// Of returns the engine that copies images for a test: nil if that is this process.
func (e *Engines) Of(t *testing.T, runner *skopeo.Runner) mirror.Engine {
	if e.Builtin {
		return nil
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	return &noting{runner, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.copied[name] = true
	}}
}

// noting notes that an image is copied.
type noting struct {
	*skopeo.Runner
	note func()
}

func (n *noting) Turn(ctx context.Context, image skopeo.Image) (skopeo.Turn, error) {
	n.note()
	return n.Runner.Turn(ctx, image)
}

func (n *noting) CopyManifest(ctx context.Context, source reference.Repository, digest reference.Digest, destination reference.Repository) error {
	n.note()
	return n.Runner.CopyManifest(ctx, source, digest, destination)
}
