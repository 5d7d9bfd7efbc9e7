package acceptance

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// fault is a kind of fault that lasts for some time.
type fault struct {
	name   string
	reason *regexp.Regexp // what the reason of an image says that was given up for it
	strike func(length time.Duration)
}

// strikes records what faults have affected.
type strikes struct {
	times        int
	everywhere   bool
	repositories map[string]bool
}

// unreachable matches the reason for a registry that does not answer, or not completely.
var unreachable = regexp.MustCompile(`(?i)EOF|reset|refused|broken pipe|closed|timeout|stall|no complete answer|unavailable|moved no byte|away`)

// faults are all kinds of faults.
func (c *chaos) faults() []fault {
	faults := []fault{
		{"worker killed", unreachable, func(time.Duration) { c.replace(c.anyWorker()) }},
		{"worker suspended", unreachable, func(length time.Duration) { c.suspend(c.anyWorker(), shortAckWait+length) }},
		{"broker killed", unreachable, func(length time.Duration) { c.broker.kill(); time.Sleep(length); c.broker.start() }},
		{"broker suspended", unreachable, func(length time.Duration) { c.broker.suspend(length) }},
	}
	for name, r := range map[string]*registrytest.Relay{"source": c.toSource, "destination": c.toDestination, "broker": c.toBroker} {
		faults = append(faults,
			fault{name + " cut", unreachable, func(length time.Duration) { cutAgain(r, length) }},
			fault{name + " stalled", unreachable, func(length time.Duration) { r.Freeze(); time.Sleep(length); r.Thaw() }},
		)
	}
	if c.broker.small {
		faults = append(faults, fault{"broker's disk full", unreachable, func(length time.Duration) {
			release := occupy(c.t, c.broker.dir)
			time.Sleep(length)
			release()
			c.broker.kill() // nats-server writes nothing more until it is started again
			c.broker.start()
		}})
	}
	if isSmallDisk(c.skopeo) {
		faults = append(faults, fault{"skopeo's disk full", regexp.MustCompile(`no space left`), func(length time.Duration) {
			release := occupy(c.t, c.skopeo)
			time.Sleep(length)
			release()
		}})
	}
	for side, r := range map[string]*registrytest.Registry{"source": c.source, "destination": c.destination} {
		for _, a := range answers {
			name := side + " " + a.name
			faults = append(faults, fault{name, a.reason, func(length time.Duration) {
				f := a.fault
				f.Match = c.sometimes(name, a.kinds...)
				remove := r.Inject(f)
				time.Sleep(length)
				remove()
			}})
		}
	}
	return sorted(faults)
}

// answer is a wrong answer of a registry.
type answer struct {
	name   string
	fault  registrytest.Fault
	reason *regexp.Regexp
	kinds  []registrytest.Kind // of requests; none: all
}

const captivePortal = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please accept our terms.</body></html>"

var answers = []answer{
	{name: "500", fault: registrytest.Fault{Status: 500}, reason: regexp.MustCompile(`500|(?i)internal server error`)},
	{name: "503", fault: registrytest.Fault{Status: 503}, reason: regexp.MustCompile(`503|(?i)unavailable`)},
	{name: "429", fault: registrytest.Fault{Status: 429, Header: http.Header{"Retry-After": {"1"}}}, reason: regexp.MustCompile(`429|(?i)too many requests`)},
	{name: "507", fault: registrytest.Fault{Status: 507}, reason: regexp.MustCompile(`507|(?i)insufficient storage`)},
	{name: "401", fault: registrytest.Fault{Status: 401, Header: http.Header{"Www-Authenticate": {`Basic realm="chaos"`}}}, reason: regexp.MustCompile(`401|(?i)unauthorized`)},
	{name: "page", fault: registrytest.Fault{Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: captivePortal}, reason: regexp.MustCompile(`(?i)page|html|digest`)},
	{name: "empty 200", fault: registrytest.Fault{Status: 200}, reason: regexp.MustCompile(`(?i)empty|EOF|digest|length`)},
	{name: "truncated body", fault: registrytest.Fault{TruncateBody: true}, reason: regexp.MustCompile(`(?i)EOF|truncated|digest`)},
	{name: "slow", fault: registrytest.Fault{Delay: 700 * time.Millisecond}, reason: unreachable},
	{
		name: "wrong digest", reason: regexp.MustCompile(`(?i)digest|mismatch|manifest`),
		fault: registrytest.Fault{
			Status: 200, Body: `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`,
			Header: http.Header{"Content-Type": {"application/vnd.oci.image.manifest.v1+json"}},
		},
		kinds: []registrytest.Kind{registrytest.KindManifestGet, registrytest.KindBlobGet},
	},
}

// begin records that a fault begins.
func (c *chaos) begin(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.struck(name)
	s.times++
}

func (c *chaos) struck(name string) *strikes {
	if c.strikes[name] == nil {
		c.strikes[name] = &strikes{repositories: map[string]bool{}}
	}
	return c.strikes[name]
}

// sometimes matches half of the requests of the kinds, and records them.
func (c *chaos) sometimes(name string, kinds ...registrytest.Kind) registrytest.Match {
	return func(r registrytest.Request) bool {
		if len(kinds) > 0 && !registrytest.Kinds(kinds...)(r) {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dice.IntN(2) == 0 {
			return false
		}
		s := c.struck(name)
		s.repositories[strings.TrimPrefix(r.Repository, prefix+"/")] = true
		s.everywhere = s.everywhere || r.Repository == ""
		return true
	}
}

// explains reports whether a fault that affected the repository causes such a reason.
func (c *chaos) explains(repository, reason string) bool {
	for _, f := range c.faults() {
		s := c.strikes[f.name]
		if s == nil || !f.reason.MatchString(reason) {
			continue
		}
		if s.everywhere || len(s.repositories) == 0 || s.repositories[repository] {
			return true
		}
	}
	return false
}

// anyWorker returns a running worker, or the last one if all have ended.
func (c *chaos) anyWorker() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.workers[len(c.workers)-1]
	running := slices.DeleteFunc(slices.Clone(c.workers), func(p *process) bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	if len(running) == 0 {
		return last
	}
	return running[c.dice.IntN(len(running))]
}

// replace kills a worker and starts another one.
func (c *chaos) replace(p *process) {
	_ = p.command.Process.Signal(syscall.SIGKILL)
	<-p.ended
	c.employ()
}

func (c *chaos) suspend(p *process, length time.Duration) {
	_ = p.command.Process.Signal(syscall.SIGSTOP)
	time.Sleep(length)
	_ = p.command.Process.Signal(syscall.SIGCONT)
}

func cutAgain(r *registrytest.Relay, length time.Duration) {
	for over := time.Now().Add(length); time.Now().Before(over); time.Sleep(length / 4) {
		r.Cut()
	}
}

// occupy fills a small disk until it is released.
func occupy(t require.TestingT, dir string) (release func()) {
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	require.NoError(t, err)
	for block := make([]byte, 64<<10); err == nil; {
		if _, err = f.Write(block); err != nil && len(block) > 1 {
			block, err = block[:len(block)/2], nil
		}
	}
	return func() {
		_ = f.Close()
		_ = os.Remove(path)
	}
}
