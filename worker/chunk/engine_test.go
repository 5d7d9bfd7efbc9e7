package chunk

import (
	"os"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

var engines mirrortest.Engines

func TestMain(m *testing.M) { os.Exit(engines.Run(m)) }

// engine returns the engine that copies images for a test. It ends a copy after the given time.
func engine(t *testing.T, insecure []string, timeout time.Duration) mirror.Engine {
	return engines.Of(t, &skopeo.Runner{Insecure: insecure, Timeout: timeout})
}
