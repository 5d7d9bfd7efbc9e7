package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// side is what a registry saw of a run.
type side struct {
	Requests     int                       `json:"requests"`
	Kinds        map[registrytest.Kind]int `json:"requests_by_kind,omitempty"`
	HTTP2        int                       `json:"requests_over_http2"`
	Refused      int                       `json:"refused"` // answered with 429
	RefusedLater int                       `json:"refused_after_first_second"`
	Sent         float64                   `json:"mb_to_registry"` // on the wire
	Received     float64                   `json:"mb_from_registry"`
}

// result is what a run took.
type result struct {
	World     string `json:"world"`
	Catalogue string `json:"catalogue"`
	Phase     string `json:"phase"`
	Program   string `json:"program"`
	used
	Source      side `json:"source"`
	Destination side `json:"destination"`
	Missing     int  `json:"missing"` // tags that the destination lacks
	Changed     int  `json:"changed"` // tags that it has with another digest
}

// The phases of a benchmark.
const (
	cold  = "cold"        // the destination is empty
	noop  = "nothing new" // it has everything
	night = "one night"   // each repository has one new tag
)

// BenchmarkQuay mirrors small images from quay.io.
func BenchmarkQuay(b *testing.B) {
	mirrorAll(b, quay, small(*repositories, tags), cold, noop, night)
}

// BenchmarkUnlimited mirrors small images from a registry without limits.
func BenchmarkUnlimited(b *testing.B) {
	mirrorAll(b, unlimited, small(*repositories, tags), cold, noop)
}

// hubRepositories of three tags are 180 pulls, of the 200 that Docker Hub allows.
const hubRepositories, hubTags = 20, 3

// BenchmarkHub mirrors small images from Docker Hub.
func BenchmarkHub(b *testing.B) {
	mirrorAll(b, hub, small(min(*repositories, hubRepositories), hubTags), cold, noop)
}

// BenchmarkLarge mirrors images of real sizes from a registry without limits.
func BenchmarkLarge(b *testing.B) {
	mirrorAll(b, unlimited, large(*largeRepositories, largeTags), cold)
}

// BenchmarkNarrow mirrors images of real sizes from a registry that limits each connection.
func BenchmarkNarrow(b *testing.B) {
	mirrorAll(b, narrow, large(*largeRepositories, largeTags), cold)
}

// mirrorAll lets every program mirror the catalogue in each phase. The phases after the first
// one start with a complete destination, however the phase before it ended.
func mirrorAll(b *testing.B, p place, c catalogue, phases ...string) {
	measured, err := regexp.Compile(*which)
	require.NoError(b, err)
	for b.Loop() {
		w := newWorld(b, p, *sourceTrip, c.onDisk)
		tooSlow := map[string]bool{}
		c.push(b, w.source, atSource, c.tags...)
		for _, phase := range phases {
			if phase == night {
				c.push(b, w.source, atSource, "2.0")
			}
			for i, program := range programs {
				if tooSlow[program.name] || !measured.MatchString(program.name) {
					continue
				}
				w.reset(b)
				if phase != cold {
					c.push(b, w.destination, program.at, c.tags...)
				}
				r := w.measure(b, program, filepath.Join(w.dir, fmt.Sprint(i)), c, phase)
				tooSlow[program.name] = r.Ended == outOfTime
				record(r)
			}
		}
	}
}

// day is what passes between two runs as far as a registry's pull limit is concerned.
const day = 24 * time.Hour

// measure runs a program once.
func (w *world) measure(b *testing.B, p program, dir string, c catalogue, phase string) result {
	b.Helper()
	require.NoError(b, os.MkdirAll(dir, 0o700))
	variables, name, arguments := p.command(b, w, c, dir)
	w.passed.Add(int64(day))
	find(b, name) // built before the time runs
	counted := w.mark()
	r := result{World: w.name, Catalogue: c.name, Phase: phase, Program: p.name}
	r.used = execute(b, *limit, slices.Concat(w.environment, variables), name, arguments...)
	r.Source, r.Destination = counted()
	r.Missing, r.Changed = c.compare(b, w, p.at)
	return r
}
