package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/scripttest"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const (
	deadline = 10 * time.Second
	often    = 10 * time.Millisecond
)

var quiet = slog.New(slog.DiscardHandler)

func listen(t *testing.T) *Endpoint {
	t.Helper()
	e, err := Listen("127.0.0.1:0", "test", quiet)
	require.NoError(t, err)
	// Without it, the garbage collector may close the listener of a test that only needs its port.
	t.Cleanup(func() { _ = e.listener.Close() })
	return e
}

// ask requests a path of the endpoint.
func ask(t *testing.T, e *Endpoint, path string) (int, string) {
	t.Helper()
	response, err := http.Get("http://" + e.Addr() + path)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func worker(ctx context.Context, e *Endpoint, b *broker.Broker, skopeo string) (*Service, error) {
	c := Config{Concurrency: 1, MaxAttempts: 1, StallTimeout: time.Minute, Engine: EngineSkopeo, Skopeo: skopeo}
	if skopeo == "" {
		c.Engine = EngineBuiltin
	}
	store, err := budget.Open(ctx, b, quiet)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, store.Close)
	return New(ctx, e, b, store, c, Registries{}, Trust{}, quiet)
}

// TestProbes: a worker that waits for its broker is alive but not ready, both before the first
// connection and after a lost one. The endpoint serves until the work is done.
func TestProbes(t *testing.T) {
	server := brokertest.Start(t)
	server.Stop()
	e, config := listen(t), server.Config()
	finish, ended := make(chan struct{}), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		ended <- e.Serve(ctx, func(ctx context.Context) error {
			b, err := broker.Open(ctx, config, broker.Options{Client: t.Name(), Log: quiet})
			if err != nil {
				return err
			}
			defer b.Close()
			s, err := worker(ctx, e, b, "skopeo")
			if err != nil {
				return err
			}
			err = s.Run(ctx)
			<-finish
			return err
		})
	}()
	stands := func(ready int, broker string) {
		t.Helper()
		require.Eventually(t, func() bool {
			status, _ := ask(t, e, "/readyz")
			return status == ready
		}, deadline, often)
		status, _ := ask(t, e, "/healthz")
		require.Equal(t, http.StatusOK, status)
		require.Eventually(t, func() bool { // the broker takes a moment to open its streams
			_, body := ask(t, e, "/metrics")
			require.Contains(t, body, "go_goroutines ")
			return strings.Contains(body, "\nskopeo_worker_broker_up "+broker+"\n")
		}, deadline, often)
	}
	stands(http.StatusServiceUnavailable, "0")
	server.Restart()
	stands(http.StatusOK, "1")
	server.Stop()
	stands(http.StatusServiceUnavailable, "0")
	server.Restart()
	stands(http.StatusOK, "1")

	stop()
	stands(http.StatusOK, "1")
	close(finish)
	require.NoError(t, <-ended)
	_, err := net.Dial("tcp", e.Addr())
	require.Error(t, err)
}

func TestListen(t *testing.T) {
	taken := listen(t)
	_, err := Listen(taken.Addr(), "test", quiet)
	require.ErrorContains(t, err, "METRICS_ADDR")

	// The worker ends if its endpoint fails.
	ended := make(chan error, 1)
	go func() {
		ended <- taken.Serve(t.Context(), func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
	}()
	require.NoError(t, taken.listener.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)

	silent, err := Listen("", "test", quiet)
	require.NoError(t, err)
	require.Empty(t, silent.Addr())
	failed := errors.New("failed")
	require.ErrorIs(t, silent.Serve(t.Context(), func(context.Context) error { return failed }), failed)
}

// TestSecondWorker: a second worker on a host uses a free port, unless METRICS_ADDR is set.
func TestSecondWorker(t *testing.T) {
	taken := listen(t)
	second := Metrics{Addr: taken.Addr()}
	e, err := second.Listen("test", quiet)
	require.NoError(t, err)
	t.Cleanup(func() { _ = e.listener.Close() })
	require.NotEqual(t, taken.Addr(), e.Addr())

	t.Setenv("METRICS_ADDR", taken.Addr())
	require.Empty(t, second.Validate())
	_, err = second.Listen("test", quiet)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

// TestNew: a worker without skopeo does not start, because all its images would fail.
func TestNew(t *testing.T) {
	b := brokertest.Embedded(t)
	_, err := worker(t.Context(), listen(t), b, "/no/such/skopeo")
	require.ErrorIs(t, err, skopeo.ErrNotInstalled)
	for _, skopeo := range []string{"skopeo", ""} {
		s, err := worker(t.Context(), listen(t), b, skopeo)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, s.Run(ctx))
	}

	// A worker that cannot verify images against the signature policy does not start either.
	strict := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(strict, []byte(`{"default":[{"type":"reject"}]}`), 0o600))
	t.Setenv("CONTAINERS_POLICY_JSON", strict)
	_, err = worker(t.Context(), listen(t), b, "")
	if policy.CanVerify {
		require.NoError(t, err)
	} else {
		require.ErrorIs(t, err, policy.ErrUnenforceable)
	}
}

// TestReady: skopeo's version is looked up once for Ready and New.
func TestReady(t *testing.T) {
	dir := t.TempDir()
	path, calls := filepath.Join(dir, "skopeo"), filepath.Join(dir, "calls")
	scripttest.Write(t, path, "echo \"$@\" >>"+calls+"\necho skopeo version 1.9.3")
	c := Config{Concurrency: 1, MaxAttempts: 1, StallTimeout: time.Minute, Engine: EngineSkopeo, Skopeo: path}
	require.NoError(t, Ready(t.Context(), &c))
	b := brokertest.Embedded(t)
	store, err := budget.Open(t.Context(), b, quiet)
	require.NoError(t, err)
	defer store.Close()
	s, err := New(t.Context(), listen(t), b, store, c, Registries{}, Trust{}, quiet)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Run(ctx))
	called, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, "--version\n", string(called))
}

// TestTrust: images of every mirror name need the signatures of SIGNATURE_POLICY, and rejected ones are
// counted.
func TestTrust(t *testing.T) {
	store, err := budget.Open(t.Context(), brokertest.Embedded(t), quiet)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	s := &Service{metrics: metrics.New("test"), budget: store}
	mirrors := func(trust Trust) *mirror.Mirror {
		require.Empty(t, trust.Validate())
		n := s.network(Config{Engine: EngineBuiltin, StallTimeout: time.Minute}, Registries{}, trust, containers.New(cloud.New()), quiet)
		_, m, err := n.connect("default", nil, mirror.NoIndexes{})
		require.NoError(t, err)
		return m
	}
	require.True(t, mirrors(Trust{}).IsTrusting())
	path := filepath.Join(t.TempDir(), "policy.json")
	require.ErrorContains(t, (&Trust{Policy: path}).Validate()[0], "SIGNATURE_POLICY: the signature policy cannot be read: open "+path)
	if !policy.CanVerify {
		return
	}
	require.NoError(t, os.WriteFile(path, []byte(`{"default":[{"type":"reject"}]}`), 0o600))
	repository, digest := reference.MustRepository("quay.io/osism/tool"), reference.DigestOf(nil)
	_, errs := mirrors(Trust{Policy: path}).Verify(t.Context(), repository, digest, []reference.Tag{reference.MustTag("1")})
	require.ErrorIs(t, errs[0], policy.ErrRejected)
	require.NoError(t, testutil.GatherAndCompare(s.metrics.Registry, strings.NewReader(`
# HELP skopeo_worker_verified_images_total Images checked against SIGNATURE_POLICY by source registry and result: accepted, rejected or unknown (signatures could not be read).
# TYPE skopeo_worker_verified_images_total counter
skopeo_worker_verified_images_total{registry="quay.io",result="rejected"} 1
`), "skopeo_worker_verified_images_total"))
}

// TestPullsCountForTheirMirrorName: pulls count for the mirror name of the client that sends them.
func TestPullsCountForTheirMirrorName(t *testing.T) {
	r := registrytest.New(t)
	repository := reference.MustRepository(r.Host() + "/team/app")
	pushed, err := r.PushImage("team/app", "1", registrytest.Image{})
	require.NoError(t, err)
	digest := reference.MustDigest(pushed)
	b := brokertest.Embedded(t)
	store, err := budget.Open(t.Context(), b, quiet)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	limit := budget.Limit{Requests: 10, Window: time.Hour}
	require.NoError(t, store.SetLimits(t.Context(), "one", map[string]budget.Limit{r.Host(): limit}))
	for _, engine := range []string{EngineSkopeo, EngineBuiltin} {
		s := &Service{metrics: metrics.New("test"), budget: store}
		n := s.network(Config{Engine: engine, StallTimeout: time.Minute}, Registries{Insecure: []string{r.Host()}}, Trust{}, containers.New(cloud.New()), quiet)
		runner := mirror.Engine(&skopeo.Runner{})
		if engine == EngineBuiltin {
			runner = nil
		}
		connect, err := n.connector(runner, &consume.Notes{})
		require.NoError(t, err)
		for _, name := range []string{"one", "two"} {
			_, m, err := connect(t.Context(), message.Chunk{Name: name})
			require.NoError(t, err)
			_, again, err := connect(t.Context(), message.Chunk{Name: name})
			require.NoError(t, err)
			require.Same(t, m, again)
			_, err = m.Registry.Get(t.Context(), repository, digest)
			require.NoError(t, err)
			require.NoError(t, m.Guard(t.Context(), repository, repository, digest, func(context.Context) error { return nil }))
			if engine == EngineSkopeo {
				require.NoError(t, m.GuardEngine(t.Context(), repository, repository, digest, 2, func(context.Context) error { return nil }))
			}
		}
	}
	spent := map[string]uint64{}
	for info := range b.JS.ListStreams(t.Context(), jetstream.WithStreamListSubject("budget.window.>")).Info() {
		stream, err := b.JS.Stream(t.Context(), info.Config.Name)
		require.NoError(t, err)
		all, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		require.NoError(t, err)
		for subject, n := range all.State.Subjects {
			spent[subject[strings.LastIndex(subject, ".")+1:]] += n
		}
	}
	require.Equal(t, map[string]uint64{"one": 4, "two": 4}, spent, "two requests of each, and a copy by a skopeo that reads the source itself and pulls two manifests")
}
