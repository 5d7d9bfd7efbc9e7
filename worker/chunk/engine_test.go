package chunk

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// builtin is true if this process copies images, and false if skopeo does.
var builtin bool

// TestMain runs every test with either engine.
func TestMain(m *testing.M) {
	code := m.Run()
	builtin = true
	fmt.Println("once more, with COPY_ENGINE=builtin")
	os.Exit(max(code, m.Run()))
}

// engine returns the engine that copies images. It ends a copy after the given time.
func engine(insecure []string, timeout time.Duration) mirror.Engine {
	if builtin {
		return nil
	}
	return &skopeo.Runner{Insecure: insecure, Timeout: timeout}
}
