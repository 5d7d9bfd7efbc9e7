package charttest

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// patience is longer than a server takes to start on a busy machine.
const patience = time.Minute

// natsServer builds the server once, in the chart's version.
var natsServer = sync.OnceValues(func() (string, error) {
	dir, err := folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "nats-server")
	out, err := exec.Command("go", "build", "-ldflags=-w", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// made are folders that are removed after all tests.
var (
	making sync.Mutex
	made   []string
)

func folder() (string, error) {
	making.Lock()
	defer making.Unlock()
	dir, err := os.MkdirTemp("", "charttest-")
	made = append(made, dir)
	return dir, err
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range made {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// served is a nats-server with the chart's configuration and environment, as in its pod, but on
// loopback and with folders of the test.
type served struct {
	dir     string // with nats.conf, data and tls
	path    string
	url     string
	env     []string
	pod     core.PodSpec
	command *exec.Cmd
	log     *bytes.Buffer
	ended   chan error
}

// serve starts the servers of a rendering.
func serve(t *testing.T, r *rendering) []*served {
	t.Helper()
	path, err := natsServer()
	require.NoError(t, err)
	set := find[*apps.StatefulSet](t, r, "nats")
	type port struct{ client, route, monitor int }
	ports := make([]port, *set.Spec.Replicas)
	for i := range ports {
		ports[i] = port{brokertest.FreePort(t), brokertest.FreePort(t), brokertest.FreePort(t)}
	}
	all := make([]*served, len(ports))
	for i := range all {
		s := &served{dir: t.TempDir(), path: path, pod: set.Spec.Template.Spec, log: &bytes.Buffer{}}
		all[i] = s
		s.env = append(os.Environ(), fmt.Sprintf("POD_NAME=%s-nats-%d", fullName, i))
		for _, e := range s.pod.Containers[0].Env {
			if e.ValueFrom != nil {
				continue // POD_NAME, and the credentials that other variables contain
			}
			value := strings.NewReplacer("$(NATS_USER)", "mirror", "$(NATS_PASSWORD)", "secret").Replace(e.Value)
			for other, p := range ports {
				host := fmt.Sprintf("%s-nats-%d.%s-nats-headless:6222", fullName, other, fullName)
				value = strings.ReplaceAll(value, host, fmt.Sprintf("127.0.0.1:%d", p.route))
			}
			s.env = append(s.env, e.Name+"="+value)
		}
		for _, v := range s.pod.Volumes {
			if v.Name == "tls" {
				s.certificate(t, r, v.Secret.SecretName)
			}
		}
		conf := strings.NewReplacer(
			"http_port: 8222", fmt.Sprintf("http: 127.0.0.1:%d", ports[i].monitor),
			"port: 4222", fmt.Sprintf("listen: 127.0.0.1:%d", ports[i].client),
			"port: 6222", fmt.Sprintf("listen: 127.0.0.1:%d", ports[i].route),
			"/data", filepath.Join(s.dir, "data"), "/etc/nats-tls", s.dir,
		).Replace(natsConf(t, r))
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, "nats.conf"), []byte(conf), 0o600))
		s.url = fmt.Sprintf("127.0.0.1:%d", ports[i].client)
		s.start(t)
	}
	return all
}

// certificate writes the server's certificate into its folder, as Kubernetes mounts the Secret.
func (s *served) certificate(t *testing.T, r *rendering, secret string) {
	t.Helper()
	for name, data := range find[*core.Secret](t, r, secret).Data {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), data, 0o600))
	}
}

func (s *served) start(t *testing.T) {
	t.Helper()
	s.command = exec.Command(s.path, "--config", filepath.Join(s.dir, "nats.conf"))
	s.command.Env, s.command.Stderr = s.env, s.log
	require.NoError(t, s.command.Start())
	command, ended := s.command, make(chan error, 1)
	s.ended = ended
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
}

// run executes the command of the container, in which the server is process 1.
func (s *served) run(t *testing.T, e *core.ExecAction) {
	t.Helper()
	require.Equal(t, "nats-server", e.Command[0])
	arguments := append([]string{}, e.Command[1:]...)
	last := len(arguments) - 1
	signal, one := strings.CutSuffix(arguments[last], "=1")
	require.True(t, one, arguments[last])
	arguments[last] = signal + "=" + strconv.Itoa(s.command.Process.Pid)
	out, err := exec.Command(s.path, arguments...).CombinedOutput()
	require.NoError(t, err, string(out))
}

// connect connects as clients do, once the servers are ready.
func connect(t *testing.T, servers []*served, options ...nats.Option) *nats.Conn {
	t.Helper()
	var urls []string
	for _, s := range servers {
		urls = append(urls, "nats://mirror:secret@"+s.url)
	}
	var connected *nats.Conn
	require.Eventually(t, func() bool {
		c, err := nats.Connect(strings.Join(urls, ","), append(options, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
		if err != nil {
			return false
		}
		connected = c
		return true
	}, patience, 50*time.Millisecond)
	t.Cleanup(connected.Close)
	return connected
}

// stream creates a stream, once the cluster has a leader.
func stream(t *testing.T, c *nats.Conn, replicas int) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(c)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: replicas})
		return err == nil
	}, patience, 100*time.Millisecond)
	return js
}

// info is the first message of a server.
func info(t *testing.T, address string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	line, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	return line
}

// TestServersEncrypt: clients reach the servers only with the CA and the URL of the chart. Servers
// reach each other.
func TestServersEncrypt(t *testing.T) {
	t.Parallel()
	for name, replicas := range map[string]int{"one server": 1, "three servers": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := render(t, least, fmt.Sprintf("nats: {server: {replicas: %d, tls: {enabled: true}}}", replicas))
			servers := serve(t, r)
			got := env(worker(t, r).Template.Spec.Containers[0])
			require.Equal(t, "tls://mirror-skopeo-worker-nats.mirrors.svc:4222", got["NATS_URL"])
			ca := filepath.Join(servers[0].dir, filepath.Base(got["NATS_CA"]))

			js := stream(t, connect(t, servers, nats.RootCAs(ca)), replicas)
			_, err := js.Publish(t.Context(), "s", nil)
			require.NoError(t, err)
			require.Contains(t, info(t, servers[0].url), `"tls_required":true`)
			_, err = nats.Connect("nats://mirror:secret@" + servers[0].url)
			require.ErrorContains(t, err, "certificate signed by unknown authority")

			config := broker.Config{URL: "tls://" + servers[0].url, User: "mirror", Password: "secret", CA: ca, Replicas: replicas}
			b, err := broker.Open(t.Context(), config, broker.Options{Client: "test", Patience: patience})
			require.NoError(t, err)
			b.Close()

			// A certificate that cert-manager renews is read without a restart.
			renewed := render(t, least, fmt.Sprintf("nats: {server: {replicas: %d, tls: {enabled: true}}}", replicas))
			servers[0].certificate(t, renewed, fullName+"-nats-server-tls")
			servers[0].run(t, servers[0].pod.Containers[0].LivenessProbe.Exec)
			connect(t, servers[:1], nats.RootCAs(ca))
		})
	}
}

// TestLameDuck: when a server is stopped, it sends its clients to the other servers before it ends,
// even if a signal follows the hook at once. It keeps what it has acknowledged.
func TestLameDuck(t *testing.T) {
	t.Parallel()
	for name, replicas := range map[string]int{"one server": 1, "three servers": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := render(t, least, fmt.Sprintf("nats: {server: {replicas: %d}}", replicas))
			servers := serve(t, r)
			told := make(chan struct{}, 1)
			c := connect(t, servers, nats.LameDuckModeHandler(func(*nats.Conn) { told <- struct{}{} }))
			js := stream(t, c, replicas)
			_, err := js.Publish(t.Context(), "s", []byte("acknowledged"))
			require.NoError(t, err)

			// The first server to be ready is not always the first that was started.
			at := slices.IndexFunc(servers, func(s *served) bool { return s.url == c.ConnectedAddr() })
			require.GreaterOrEqual(t, at, 0, c.ConnectedAddr())
			stopped := servers[at]
			stopped.run(t, stopped.pod.Containers[0].Lifecycle.PreStop.Exec)
			<-told
			require.NoError(t, stopped.command.Process.Signal(syscall.SIGTERM))
			require.NoError(t, <-stopped.ended)
			grace := time.Duration(*stopped.pod.TerminationGracePeriodSeconds) * time.Second
			require.Greater(t, grace, 30*time.Second+10*time.Second, "lame duck mode, and the end")
			if replicas == 1 {
				stopped.start(t)
			}
			require.Eventually(t, func() bool {
				s, err := js.Stream(t.Context(), "S")
				if err != nil {
					return false
				}
				m, err := s.GetMsg(t.Context(), 1)
				return err == nil && string(m.Data) == "acknowledged"
			}, patience, 50*time.Millisecond)
		})
	}
}

// TestServerLeavesRoomOnItsVolume: the broker refuses messages before the volume is full, and
// accepts them again without a restart when there is room.
func TestServerLeavesRoomOnItsVolume(t *testing.T) {
	t.Parallel()
	servers := serve(t, render(t, least, "nats: {server: {persistence: {size: 10Mi}}}"))
	js := stream(t, connect(t, servers), 1)
	var err error
	stored := 0
	for ; err == nil; stored++ {
		_, err = js.Publish(t.Context(), "s", make([]byte, 1<<18))
		require.Less(t, stored, 40, "more than the volume has")
	}
	require.ErrorIs(t, broker.Explain(err, ""), broker.ErrFull)
	require.Greater(t, stored, 20)
	full, err := js.Stream(t.Context(), "S")
	require.NoError(t, err)
	require.NoError(t, full.Purge(t.Context()))
	_, err = js.Publish(t.Context(), "s", make([]byte, 1<<18))
	require.NoError(t, err)
}

// TestMonitoringIsClosed: the monitoring port is closed, unless a value or KEDA needs it.
func TestMonitoringIsClosed(t *testing.T) {
	opened := func(values string) map[string]bool {
		r := render(t, least, values)
		c := find[*apps.StatefulSet](t, r, "nats").Spec.Template.Spec.Containers[0]
		found := map[string]bool{
			"server": strings.Contains(natsConf(t, r), "http_port: 8222"),
			"probes": c.StartupProbe.HTTPGet != nil && c.ReadinessProbe.HTTPGet != nil,
		}
		for _, p := range c.Ports {
			found["pod"] = found["pod"] || p.Name == "monitor"
		}
		for _, p := range find[*core.Service](t, r, "nats-headless").Spec.Ports {
			found["service"] = found["service"] || p.Name == "monitor"
		}
		return found
	}
	want := func(is bool) map[string]bool {
		return maps.Collect(func(yield func(string, bool) bool) {
			for _, what := range []string{"server", "probes", "pod", "service"} {
				if !yield(what, is) {
					return
				}
			}
		})
	}
	for values, is := range map[string]bool{
		"{}":                                     false,
		"nats: {server: {tls: {enabled: true}}}": false,
		"nats: {server: {monitoring: {enabled: true}}}":                                    true,
		"nats: {server: {monitoring: {enabled: true}, tls: {enabled: true}}}":              true,
		"worker: {keda: {enabled: true}}":                                                  true,
		"worker: {keda: {enabled: true, monitoringEndpoint: 'prometheus.example.com:80'}}": false,
	} {
		require.Equal(t, want(is), opened(values), values)
	}
	r := render(t, least, "nats: {server: {replicas: 3}}")
	require.Positive(t, find[*apps.StatefulSet](t, r, "nats").Spec.MinReadySeconds, "the next server waits until this one has caught up")
}
