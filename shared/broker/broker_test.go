package broker_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

const secret = "s3cret"

// fails requires that a broker cannot be opened, and returns the error. Neither the error nor the
// log contains a secret.
func fails(t *testing.T, c broker.Config) error {
	t.Helper()
	var log bytes.Buffer
	b, err := broker.Open(t.Context(), c, broker.Options{
		Client: t.Name(), Patience: time.Nanosecond, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.Error(t, err)
	require.Nil(t, b)
	require.NotContains(t, err.Error()+log.String(), secret)
	return err
}

// free returns a free address.
func free(t *testing.T) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(brokertest.FreePort(t)))
}

func TestUnreachable(t *testing.T) {
	address := free(t)
	for _, url := range []string{"nats://" + address, "nats://planner:" + secret + "@" + address, "planner:" + secret + "@" + address} {
		err := fails(t, broker.Config{URL: url})
		require.ErrorIs(t, err, broker.ErrUnreachable)
		require.ErrorContains(t, err, "nats://"+address)
		require.ErrorContains(t, err, "NATS_URL")
	}
}

// signal receives every line that is logged.
type signal chan string

func (s signal) Write(p []byte) (int, error) {
	s <- string(p)
	return len(p), nil
}

func TestWaitsForABroker(t *testing.T) {
	s := brokertest.Start(t)
	s.Stop()
	lines := make(signal, 100)
	options := broker.Options{Client: t.Name(), Log: slog.New(slog.NewTextHandler(lines, nil))}

	ctx, cancel := context.WithCancel(t.Context())
	var given errgroup.Group
	given.Go(func() error {
		_, err := broker.Open(ctx, s.Config(), options)
		return err
	})
	require.Contains(t, <-lines, "waiting for the broker")
	cancel()
	err := given.Wait()
	require.ErrorIs(t, err, broker.ErrUnreachable)
	require.ErrorIs(t, err, context.Canceled)

	var waited errgroup.Group
	waited.Go(func() error {
		b, err := broker.Open(t.Context(), s.Config(), options)
		if err == nil {
			b.Close()
		}
		return err
	})
	require.Contains(t, <-lines, "waiting for the broker")
	s.Restart()
	require.NoError(t, waited.Wait())
}

func TestCredentials(t *testing.T) {
	byPassword := brokertest.Start(t, func(o *server.Options) { o.Username, o.Password = "planner", "right" })
	byToken := brokertest.Start(t, func(o *server.Options) { o.Authorization = "right" })
	inURL := func(s *brokertest.Server, user string) string {
		return strings.Replace(s.URL(), "//", "//"+user+"@", 1)
	}
	for _, c := range []broker.Config{
		{URL: byPassword.URL()},
		{URL: byPassword.URL(), User: "planner", Password: secret},
		{URL: inURL(byPassword, "planner:"+secret)},
		{URL: byToken.URL(), Token: secret},
		{URL: inURL(byToken, secret)},
	} {
		err := fails(t, c)
		require.ErrorIs(t, err, broker.ErrCredentials)
		require.NotErrorIs(t, err, broker.ErrUnreachable)
	}
	brokertest.Open(t, broker.Config{URL: byPassword.URL(), User: "planner", Password: "right", Replicas: 1})
	brokertest.Open(t, broker.Config{URL: byToken.URL(), Token: "right", Replicas: 1})
}

func TestCredentialFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(secret), 0o600))
	for variable, c := range map[string]broker.Config{
		"NATS_CREDS": {Creds: path},
		"NATS_NKEY":  {NKey: path},
		"NATS_CA":    {CA: path},
		"NATS_CERT":  {Cert: path, Key: path},
	} {
		c.URL = "nats://" + free(t)
		err := fails(t, c)
		require.ErrorIs(t, err, broker.ErrCredentials)
		require.ErrorContains(t, err, variable)
	}
}

func TestNoJetStream(t *testing.T) {
	s := brokertest.Start(t, func(o *server.Options) { o.JetStream = false })
	require.ErrorIs(t, fails(t, s.Config()), broker.ErrNoJetStream)
}

func TestReplicasNeedACluster(t *testing.T) {
	s := brokertest.Start(t)
	err := fails(t, broker.Config{URL: s.URL(), Replicas: 3})
	require.ErrorIs(t, err, broker.ErrTooFew)
	require.ErrorContains(t, err, "NATS_REPLICAS=3: nats: API error: code=500 err_code=10074 description=replicas > 1 not supported in non-clustered mode")
	require.NotErrorIs(t, err, broker.ErrUnreachable)
}

func TestReplicasNeedServers(t *testing.T) {
	c := brokertest.StartCluster(t)
	config := c.Config()
	config.Replicas = 5
	err := fails(t, config)
	require.ErrorIs(t, err, broker.ErrTooFew)
	require.ErrorContains(t, err, "NATS_REPLICAS=5: nats: API error: code=400 err_code=10005 description=no suitable peers for placement")
	require.NotErrorIs(t, err, broker.ErrUnreachable)
}

func TestFolderInUse(t *testing.T) {
	c := broker.Config{DataDir: filepath.Join(t.TempDir(), "new", "folder"), Replicas: 3}
	first := brokertest.Open(t, c)
	require.Equal(t, 1, first.Replicas)
	err := fails(t, c)
	require.ErrorIs(t, err, broker.ErrInUse)
	require.ErrorContains(t, err, "process "+strconv.Itoa(os.Getpid())+":")
	first.Close()
	brokertest.Open(t, c)
}

// TestFolderOfAChild: a child that is just being started does not keep the lock.
func TestFolderOfAChild(t *testing.T) {
	folder := t.TempDir()
	lock, err := broker.LockFolder(folder)
	require.NoError(t, err)
	child, err := syscall.Dup(int(lock.Fd())) // as a fork does
	require.NoError(t, err)
	defer func() { require.NoError(t, syscall.Close(child)) }()
	broker.UnlockFolder(lock)
	lock, err = broker.LockFolder(folder)
	require.NoError(t, err)
	broker.UnlockFolder(lock)
}

func TestFolderCannotBeUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	err := fails(t, broker.Config{DataDir: file})
	require.ErrorIs(t, err, broker.ErrNoFolder)

	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "jetstream"), nil, 0o600))
	err = fails(t, broker.Config{DataDir: folder})
	require.ErrorIs(t, err, broker.ErrUnreachable)
	require.ErrorContains(t, err, "DATA_DIR="+folder)
	require.ErrorContains(t, err, "storage directory")
	require.NotErrorIs(t, fails(t, broker.Config{DataDir: folder}), broker.ErrInUse, "the lock is let go")
}
