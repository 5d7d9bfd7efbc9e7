package brokertest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/osism/skopeo-worker/shared/broker"
)

// Release is a released nats-server with JetStream, as a process that listens on
// loopback.
type Release struct {
	t       testing.TB
	path    string
	flags   []string
	port    int
	command *exec.Cmd
}

// StartRelease builds a released nats-server and starts it on a free port, with a store of its own and with
// the given flags. It is stopped when the test ends. The release is not a dependency, so the test is skipped
// if the module proxy cannot be reached.
func StartRelease(t testing.TB, version string, flags ...string) *Release {
	t.Helper()
	return startRelease(t, version, t.TempDir(), FreePort(t), flags...)
}

// BecomeRelease stops the server, and starts a released nats-server with its port and its store.
func (s *Server) BecomeRelease(version string) *Release {
	s.t.Helper()
	s.Stop()
	return startRelease(s.t, version, s.options.StoreDir, s.options.Port)
}

func startRelease(t testing.TB, version, store string, port int, flags ...string) *Release {
	t.Helper()
	r := &Release{t: t, path: build(t, version), port: port, flags: append([]string{
		"-a", "127.0.0.1", "-p", strconv.Itoa(port), "-js", "-sd", store, "-n", "release",
	}, flags...)}
	r.start()
	t.Cleanup(r.Stop)
	return r
}

// building is held while a release is built: tests that need the same one would compile it at once.
var building sync.Mutex

// build builds a released nats-server and returns its path. Go's build cache makes later builds short.
func build(t testing.TB, version string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	bin := t.TempDir()
	install := exec.Command("go", "install", "-ldflags=-w", "github.com/nats-io/nats-server/v2@v"+version)
	install.Dir = bin
	install.Env = append(os.Environ(), "GOBIN="+bin, "GOWORK=off", "GOFLAGS=")
	out, err := install.CombinedOutput()
	if err != nil && bytes.Contains(out, []byte("dial tcp")) {
		t.Skipf("needs the module proxy: %s", out)
	}
	if err != nil {
		t.Fatalf("building nats-server %s: %v\n%s", version, err, out)
	}
	return filepath.Join(bin, "nats-server")
}

func (r *Release) start() {
	r.t.Helper()
	r.command = exec.Command(r.path, r.flags...)
	var log bytes.Buffer
	r.command.Stderr = &log
	if err := r.command.Start(); err != nil {
		r.t.Fatalf("starting nats-server: %v", err)
	}
	for deadline := time.Now().Add(ready); ; time.Sleep(look) {
		conn, err := nats.Connect(r.URL(), nats.NoReconnect(), nats.IgnoreDiscoveredServers())
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			r.Stop()
			r.t.Fatalf("nats-server does not start: %v\n%s", err, log.String())
		}
	}
}

// URL returns the URL for clients.
func (r *Release) URL() string {
	return "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port))
}

// Config returns the configuration with which the broker is opened.
func (r *Release) Config() broker.Config { return broker.Config{URL: r.URL(), Replicas: 1} }

// Stop ends the server; its store stays. Stopping twice does no harm.
func (r *Release) Stop() {
	if r.command.ProcessState != nil {
		return
	}
	_ = r.command.Process.Signal(syscall.SIGTERM)
	_ = r.command.Wait()
}

// Join starts a released server as a further node of the cluster.
func (c *Cluster) Join(version string) *Release {
	c.t.Helper()
	route := routeOf(FreePort(c.t))
	routes := make([]string, len(c.Nodes))
	for i, s := range c.Nodes {
		routes[i] = s.options.Routes[i].String()
	}
	return StartRelease(c.t, version, "--cluster_name", "brokertest", "--cluster", route.String(), "--routes", strings.Join(routes, ","))
}
