package chunk

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// builtin is whether chunks are copied by this process, instead of by skopeo.
var builtin bool

// TestMain runs every test with either engine.
func TestMain(m *testing.M) {
	code := m.Run()
	builtin = true
	fmt.Println("once more, with COPY_ENGINE=builtin")
	os.Exit(max(code, m.Run()))
}

// engine copies images for a test that waits for registries that hang for no longer.
func engine(insecure []string, timeout time.Duration) mirror.Engine {
	if builtin {
		return nil
	}
	return &skopeo.Runner{Insecure: insecure, Timeout: timeout}
}
