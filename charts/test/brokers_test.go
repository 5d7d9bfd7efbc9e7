package charttest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
)

// serverOptions returns the options that nats-server reads from the chart's file.
func serverOptions(t *testing.T, values ...string) *server.Options {
	t.Helper()
	r := render(t, append([]string{least}, values...)...)
	configuration(t, r, "mirror", "secret")
	file := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte(natsConf(t, r)), 0o600))
	o, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	return o
}

// TestWhatBrokersAreSetTo: the embedded broker, the chart's one server, and each of its three
// servers have the documented settings.
func TestWhatBrokersAreSetTo(t *testing.T) {
	embedded := broker.EmbeddedOptions(t.TempDir())
	for kind, o := range map[string]*server.Options{
		"embedded":      embedded,
		"one server":    serverOptions(t),
		"three servers": serverOptions(t, "nats: {server: {replicas: 3}}"),
	} {
		t.Run(kind, func(t *testing.T) {
			require.True(t, o.JetStream)
			require.True(t, o.SyncAlways, "a power cut takes what was acknowledged")
			require.NotEmpty(t, o.StoreDir)
			require.Equal(t, embedded.JetStreamMaxMemory, o.JetStreamMaxMemory)
			require.Positive(t, o.JetStreamMaxStore)
			require.Zero(t, o.MaxPayload, "the default, 1 MiB, which messages are made for")
			require.Zero(t, o.JetStreamLimits, "the defaults")
			require.Empty(t, o.JetStreamDomain)
			require.Empty(t, o.Accounts, "all have the same account")
		})
	}
}
