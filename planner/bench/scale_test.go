package bench

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// farTrip is a round trip to another continent.
const farTrip = 100 * time.Millisecond

// longer is how many times the limit what has no rival may take.
const longer = 5

// scaled are the sizes of the fleets.
var scaled = []int{1, 2, 4, 8}

// few is a WORKER_CONCURRENCY with which the cores, which fleets share with the registries, suffice for
// the largest fleet.
const few = 2

// BenchmarkScale mirrors small images from another continent with fleets of several sizes: from a
// source whose limits are known, and from one that has none, which a fleet finds out first.
func BenchmarkScale(b *testing.B) {
	for b.Loop() {
		scale(b, quay, "")
		for _, p := range []place{quay, unlimited} {
			scale(b, p, fmt.Sprintf(", %d images at once", few), fmt.Sprintf("WORKER_CONCURRENCY=%d", few))
		}
	}
}

func scale(b *testing.B, p place, how string, variables ...string) {
	b.Helper()
	w := newWorld(b, p, farTrip, false)
	c := small(*scaleRepositories, tags)
	c.push(b, w.source, atSource, c.tags...)
	for _, workers := range scaled {
		w.reset(b)
		counted := w.mark()
		r := result{World: fmt.Sprintf("%s, %v away%s", w.name, farTrip, how), Catalogue: c.name, Phase: cold, Program: fleetName(workers)}
		r.used = w.fleet(b, c, workers, append(variables, "COPY_ENGINE=builtin")...)
		r.Source, r.Destination = counted()
		r.Missing, r.Changed = c.compare(b, w, underPath)
		record(r)
	}
}

func fleetName(workers int) string { return fmt.Sprintf("%d × worker, builtin", workers) }

// fleet mirrors the catalogue with so many workers. What they used is that of all of them,
// and of the planner.
func (w *world) fleet(b *testing.B, c catalogue, workers int, variables ...string) used {
	b.Helper()
	server := brokertest.Start(b)
	environment := slices.Concat(w.environment, variables, mirrorVariables(b, w, c, b.TempDir()),
		[]string{"NATS_URL=" + server.URL(), "CHUNK_SIZE=1", "METRICS_ADDR=127.0.0.1:0"})
	var fleet []*process
	for range workers {
		fleet = append(fleet, launch(b.Context(), b, environment, "worker"))
	}
	total := execute(b, longer**limit, environment, "planner", "plan", "--wait")
	for _, p := range fleet {
		require.NoError(b, p.command.Process.Signal(syscall.SIGTERM))
	}
	for _, p := range fleet {
		u := p.wait(context.Background())
		require.Empty(b, u.Ended, u.output)
		total.CPU += u.CPU
		total.Memory += u.Memory
	}
	return total
}
