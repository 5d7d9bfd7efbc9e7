package bench

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"testing"
	"time"
)

// The sizes of what is measured, and how far away registries are.
var (
	repositories      = flag.Int("bench.repositories", 8, "repositories of small images, of 5 tags each")
	largeRepositories = flag.Int("bench.large", 2, "repositories of large images, of 2 tags each")
	scaleRepositories = flag.Int("bench.scale", 16, "repositories that fleets mirror")
	manyRepositories  = flag.Int("bench.many", 100, "repositories of 200 tags that are there already")
	windows           = flag.Int("bench.windows", 3, "windows of a pull limit that BenchmarkBudget takes")
	sourceTrip        = flag.Duration("bench.source", 40*time.Millisecond, "round trip to the source")
	destinationTrip   = flag.Duration("bench.destination", 2*time.Millisecond, "round trip to the destination")
	http2             = flag.Bool("bench.http2", true, "let registries speak HTTP/2, too")
	which             = flag.String("bench.programs", "", "measure only programs whose names match this regular expression")
	limit             = flag.Duration("bench.limit", time.Minute, "a program that takes longer is ended")
	folder            = flag.String("bench.report", "", "folder for benchmarks.md and benchmarks.json")
)

// Tags of a repository of small images, of large ones, and of one that has very many.
const tags, largeTags, manyTags = 5, 2, 200

// results are those of all benchmarks of this run.
var results []result

// record keeps a result for the report, and shows that something has happened.
func record(r result) {
	for _, figure := range []*float64{&r.Seconds, &r.CPU, &r.Memory, &r.Source.Sent, &r.Source.Received, &r.Destination.Sent, &r.Destination.Received} {
		*figure = math.Round(*figure*1000) / 1000
	}
	results = append(results, r)
	fmt.Fprintf(os.Stderr, "%s, %s, %s: %.2f s, %s\n", r.World, r.Phase, r.Program, r.Seconds, r.ending())
	if r.Ended != "" && r.Ended != outOfTime {
		fmt.Fprintf(os.Stderr, "\t%s\n", r.output[max(0, len(r.output)-1000):])
	}
}

// serversGC is GOGC of the registries and relays, which have their cores in common with what is
// measured: otherwise collecting garbage would take half of their processor time, most of it for
// the 4 MiB with which distribution reads each blob from memory.
const serversGC = 800

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(serversGC)
	began := time.Now()
	code := m.Run()
	if len(results) > 0 {
		report := newReport(began)
		fmt.Print(report.tables(), report.summary())
		if *folder != "" {
			if err := report.write(*folder); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}
