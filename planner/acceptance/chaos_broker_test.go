package acceptance

import (
	"fmt"
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
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const (
	brokerDisk = 48 << 20
	skopeoDisk = 16 << 20
)

// brokerProcess is a nats-server in a process of its own.
type brokerProcess struct {
	t       *testing.T
	dir     string // its store
	small   bool   // the store is on a disk of its own
	address string
	relay   *registrytest.Relay // the way to it that can fail

	mu      sync.Mutex
	command *exec.Cmd
}

// buildBroker builds the version of nats-server that the planner embeds.
var buildBroker = sync.OnceValues(func() (string, error) {
	path := filepath.Join(bin, "nats-server")
	arguments := append([]string{"build", "-o", path}, buildFlags...)
	output, err := exec.Command("go", append(arguments, "github.com/nats-io/nats-server/v2")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building nats-server: %w: %s", err, output)
	}
	return path, nil
})

func startBroker(t *testing.T, dir string) *brokerProcess {
	t.Helper()
	b := &brokerProcess{t: t, dir: dir, small: isSmallDisk(dir), address: net.JoinHostPort("127.0.0.1", strconv.Itoa(brokertest.FreePort(t)))}
	b.relay = registrytest.NewRelay(t, func() string { return b.address })
	b.start()
	t.Cleanup(b.kill)
	return b
}

// start starts the server, and returns when it answers.
func (b *brokerProcess) start() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.command != nil {
		return // another fault was faster
	}
	path, err := buildBroker()
	require.NoError(b.t, err)
	config := filepath.Join(b.t.TempDir(), "nats.conf")
	require.NoError(b.t, os.WriteFile(config, fmt.Appendf(nil,
		"listen: %q\njetstream { store_dir: %q, sync_interval: always }\n", b.address, b.dir), 0o600))
	b.command = exec.Command(path, "-c", config)
	require.NoError(b.t, b.command.Start())
	require.Eventually(b.t, func() bool {
		connection, err := nats.Connect("nats://" + b.address)
		if err != nil {
			return false
		}
		defer connection.Close()
		js, err := connection.JetStream()
		if err == nil {
			_, err = js.AccountInfo()
		}
		return err == nil
	}, patience, tick)
}

// kill kills the server with SIGKILL.
func (b *brokerProcess) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.command == nil {
		return
	}
	_ = b.command.Process.Kill()
	_ = b.command.Wait()
	b.command = nil
}

func (b *brokerProcess) suspend(length time.Duration) {
	b.mu.Lock() // so that no caller waits for a start meanwhile
	defer b.mu.Unlock()
	if b.command == nil {
		return
	}
	_ = b.command.Process.Signal(syscall.SIGSTOP)
	time.Sleep(length)
	_ = b.command.Process.Signal(syscall.SIGCONT)
}

func (b *brokerProcess) config() broker.Config {
	return broker.Config{URL: "nats://" + b.address, Replicas: 1}
}

// smallDisk returns an empty folder. If the system permits a mount, the folder is on a disk of the
// given size in bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir, err := brokertest.Tmpfs(t, size)
	if err != nil {
		t.Logf("no disk is filled, because mounting one needs a right: %v", err)
		return t.TempDir()
	}
	return dir
}

func isSmallDisk(dir string) bool {
	var here, above syscall.Stat_t
	return syscall.Stat(dir, &here) == nil && syscall.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}

// acks counts the acknowledgements of the workers. The counts of the broker are lost when it
// restarts.
type acks struct {
	mu       sync.Mutex
	messages map[string]bool // by sequence in the stream
	again    int             // acknowledgements of a delivery that was not the first
}

// watch counts acknowledgements until the test ends.
func (a *acks) watch(t *testing.T, b *brokerProcess) {
	t.Helper()
	a.messages = map[string]bool{}
	connection, err := nats.Connect("nats://"+b.relay.Host(), nats.MaxReconnects(-1), nats.ReconnectWait(tick))
	require.NoError(t, err)
	t.Cleanup(connection.Close)
	_, err = connection.Subscribe("$JS.ACK."+broker.StreamName+"."+broker.ConsumerName+".>", func(m *nats.Msg) {
		tokens := strings.Split(m.Subject, ".")
		if string(m.Data) == "+WPI" || len(tokens) < 6 {
			return // a heartbeat
		}
		delivery, _ := strconv.Atoi(tokens[4])
		a.mu.Lock()
		defer a.mu.Unlock()
		a.messages[tokens[5]] = true
		if delivery > 1 {
			a.again++
		}
	})
	require.NoError(t, err)
}
