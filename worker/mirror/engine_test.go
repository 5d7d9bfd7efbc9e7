package mirror_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// builtin is whether this process copies images itself, without skopeo.
var builtin bool

// TestMain runs every test with either engine.
func TestMain(m *testing.M) {
	code := m.Run()
	builtin = true
	fmt.Println("once more, with COPY_ENGINE=builtin")
	os.Exit(max(code, m.Run()))
}

// engine returns the engine to test; nil if builtin.
func engine(insecure []string) mirror.Engine {
	if builtin {
		return nil
	}
	return &skopeo.Runner{Insecure: insecure}
}
