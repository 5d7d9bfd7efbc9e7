package acceptance

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var (
	chaosFor  = flag.Duration("chaos.for", 10*time.Second, "how long TestChaos makes things go wrong")
	chaosSeed = flag.Uint64("chaos.seed", 0, "repeats the faults of an earlier TestChaos; 0: new ones")
)

const (
	// chaosWorkers is the number of workers at any time.
	chaosWorkers = 4
	// chaosAtOnce is the number of faults at any time.
	chaosAtOnce = 3
	// settling bounds the time from the last fault to the end of the run. Closed registries are
	// probed only after minutes.
	settling = 10 * time.Minute
)

// chaos is a site whose parts all fail now and then.
type chaos struct {
	*site
	schedule *rand.Rand // only of the goroutine that chooses faults
	broker   *brokerProcess
	skopeo   string // the folder of skopeo's caches and temporary files

	toSource, toDestination, toBroker *registrytest.Relay

	entries []string        // repository[:tag] of the list
	broken  map[string]bool // repository:tag of what the source holds in part only
	images  int

	mu      sync.Mutex
	dice    *rand.Rand // of requests
	workers []*process
	strikes map[string]*strikes // by the name of the fault
	acks    acks
}

// TestChaos: whatever fails, at the end every image is at the destination with its digest, or its
// failure has a reason that one of the faults explains.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("chaos: SEED=%d", seed)
	c := newChaos(t, seed)
	id := c.plan()
	for range chaosWorkers {
		c.employ()
	}
	c.fail(*chaosFor)
	c.requireWorkers()
	c.settle(id)
	c.dismiss()
	t.Log(c.verify(id, *chaosFor, seed))
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	c := &chaos{
		site:     newSite(t),
		schedule: rand.New(rand.NewPCG(seed, 1)),
		dice:     rand.New(rand.NewPCG(seed, 2)),
		broken:   map[string]bool{},
		strikes:  map[string]*strikes{},
		skopeo:   smallDisk(t, skopeoDisk),
	}
	c.broker = startBroker(t, smallDisk(t, brokerDisk))
	c.toSource = registrytest.NewRelay(t, c.source.Host)
	c.toDestination = registrytest.NewRelay(t, c.destination.Host)
	c.toBroker = c.broker.relay
	shortenAckWait(t, c.broker.config())
	c.acks.watch(t, c.broker)
	c.env["NATS_URL"] = "nats://" + c.toBroker.Host()
	c.env["MIRROR_DEST_URL"] = c.toDestination.Host() + "/" + prefix
	c.env["INSECURE_REGISTRIES"] = c.toSource.Host() + "," + c.toDestination.Host()
	c.env["CHUNK_SIZE"] = "2"
	c.env["WORKER_CONCURRENCY"] = "3"
	c.env["STALL_TIMEOUT"] = "5s"
	c.env["HOME"], c.env["TMPDIR"] = c.skopeo, c.skopeo
	c.stock()
	return c
}

// stock fills the source with single images and indexes. Repositories share layers, and tags share
// digests. Two images lack a layer.
func (c *chaos) stock() {
	c.t.Helper()
	const tags = 10
	repositories := 12
	if *chaosFor >= time.Minute {
		repositories = 24
	}
	base := registrytest.Layer{Seed: "chaos base", Size: 256 << 10}
	for i := range repositories {
		repository := fmt.Sprintf("team%d/service%d", i%4, i)
		for j := range tags {
			version := fmt.Sprintf("%d-%d", i, j)
			own := registrytest.Layer{Seed: version, Size: 32 << 10}
			image := registrytest.Image{Version: version, Docker: i%3 == 0, Layers: []registrytest.Layer{base, own}}
			var err error
			switch {
			case j == tags-1:
				var digest string
				digest, err = c.source.Digest(repository, "v0")
				require.NoError(c.t, err)
				err = c.source.Tag(repository, "latest", digest)
			case j%4 == 3:
				_, err = c.source.PushIndex(repository, fmt.Sprintf("v%d", j), registrytest.MultiPlatform(version, "linux/amd64", "linux/arm64"))
			default:
				_, err = c.source.PushImage(repository, fmt.Sprintf("v%d", j), image)
			}
			require.NoError(c.t, err)
			c.images++
		}
		c.entries = append(c.entries, repository)
	}
	for _, repository := range []string{c.entries[1], c.entries[2]} {
		_, _, err := c.source.BreakImage(repository, "v1")
		require.NoError(c.t, err)
		c.broken[repository+":v1"] = true
	}
	var list strings.Builder
	list.WriteString("containers:\n")
	for _, e := range c.entries {
		fmt.Fprintf(&list, "  - %s/%s\n", c.toSource.Host(), e)
	}
	c.writeList(list.String())
}

// exitUnreachable is the exit code of a worker that cannot reach the broker at its start.
const exitUnreachable = 3

// employ starts a worker. If the broker does not answer at that moment, it starts another one, as a
// supervisor does.
func (c *chaos) employ() {
	c.t.Helper()
	p := start(c.t, c.served().env, "", "worker")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers = append(c.workers, p)
	go func() {
		<-p.ended
		if p.exitCode == exitUnreachable && c.t.Context().Err() == nil {
			c.employ()
		}
	}()
}

// fail causes faults, several at a time. It returns when none is left.
func (c *chaos) fail(duration time.Duration) {
	c.t.Helper()
	over := time.After(duration)
	faults := c.faults()
	var group sync.WaitGroup
	running := make(chan struct{}, chaosAtOnce)
	for {
		f := faults[c.schedule.IntN(len(faults))]
		length := 300*time.Millisecond + time.Duration(c.schedule.Int64N(int64(3*time.Second)))
		pause := time.NewTimer(time.Duration(c.schedule.Int64N(int64(500 * time.Millisecond))))
		select {
		case running <- struct{}{}:
			group.Go(func() {
				defer func() { <-running }()
				c.begin(f.name)
				f.strike(length)
			})
		case <-over:
			group.Wait()
			return
		}
		<-pause.C
	}
}

// settle waits for the end of the run.
func (c *chaos) settle(id string) {
	c.t.Helper()
	var last run.Status
	over := func() bool {
		p := c.planner("status", "-o", "json", id)
		<-p.ended
		return p.exitCode == 0 && json.Unmarshal([]byte(p.stdout.String()), &last) == nil && last.Over()
	}
	require.Eventually(c.t, over, settling, time.Second, "the run does not end")
	if last.State == run.StateLost {
		c.logRecords(id)
	}
	require.Contains(c.t, []string{run.StateDone, run.StateFailed}, last.State, "%+v", last)
}

// logRecords logs the recorded progress of each message that is not done.
func (c *chaos) logRecords(id string) {
	c.t.Helper()
	runs, err := run.Open(c.t.Context(), brokertest.Open(c.t, c.broker.config()))
	require.NoError(c.t, err)
	records, err := runs.AllProgress(c.t.Context(), "default", id)
	require.NoError(c.t, err)
	for address, p := range records {
		c.t.Logf("recorded of %s: %+v", address.Token, p)
	}
}

// requireWorkers checks that no worker has ended except those that were killed.
func (c *chaos) requireWorkers() {
	c.t.Helper()
	for _, w := range c.workers {
		select {
		case <-w.ended:
			require.Contains(c.t, []int{-1, exitUnreachable}, w.exitCode, "a worker ended by itself: %s", w.all.String())
			require.False(c.t, w.exitCode == exitUnreachable && strings.Contains(w.all.String(), "worker is running"), "a worker ended by itself: %s", w.all.String())
		default:
		}
	}
}

// dismiss stops the workers with a signal, as an operator does.
func (c *chaos) dismiss() {
	c.t.Helper()
	c.requireWorkers()
	for _, w := range c.workers {
		select {
		case <-w.ended:
		default:
			w.signal(syscall.SIGTERM)
			w.exits(0)
		}
	}
}

// leftovers returns the commands of processes that were started for the site and still run, and the
// temporary files of skopeo.
func (c *chaos) leftovers() []string {
	c.t.Helper()
	left, err := filepath.Glob(filepath.Join(c.skopeo, "container_images_*"))
	require.NoError(c.t, err)
	return append(left, processesWith(c.t, "HOME="+c.skopeo)...)
}
