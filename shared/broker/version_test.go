package broker

import (
	"log/slog"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestCheckVersion(t *testing.T) {
	for _, version := range []string{"2.15.2", "v2.15.2", "2.15.3", "2.15.2-fips", "2.15.2+build", "2.15", "2.16.0-RC.1", "2.100.0", "3.0.0"} {
		unsynced, err := checkVersion("n1", version)
		require.NoError(t, err, version)
		require.Equal(t, version == "2.15", unsynced, version)
	}
	for _, version := range []string{"2.14.4", "v2.14.4", "2.14.4-fips", "2.14.10", "2.15.0-preview.1", "2.15.0", "2.15.1", "2.15.2-RC.1"} {
		unsynced, err := checkVersion("n1", version)
		require.NoError(t, err, version)
		require.True(t, unsynced, version)
	}
	for _, version := range []string{"2.14.3", "2.14.4-RC.1", "2.14.0", "2.14.0-RC.1", "2.14", "v2.14.3", "2.14.3-fips", "2.13.9", "2.4.14", "2", "1.99.0", "0.14.0"} {
		_, err := checkVersion("n1", version)
		require.ErrorIs(t, err, ErrTooOld, version)
		require.EqualError(t, err, "the broker is too old: n1 runs nats-server "+version+", which loses plans and failures: upgrade it to 2.14.4 or newer (to survive power cuts, 2.15.2 or newer)")
	}
	for _, version := range []string{"", "two.14.0", "2.x.0", "2.14.4.1", "2.015.3", "2.15.3\n"} {
		_, err := checkVersion("n1", version)
		require.ErrorIs(t, err, ErrTooOld, version)
		require.ErrorContains(t, err, "the version of n1 is unreadable: ", version)
		require.ErrorContains(t, err, "expected nats-server 2.14.4 or newer", version)
	}
}

// A connection may lead to another server than the stream's leader.
func TestLeaderVersion(t *testing.T) {
	v := versions{log: slog.New(slog.DiscardHandler)}
	info := &jetstream.StreamInfo{Cluster: &jetstream.ClusterInfo{Leader: "n2"}}
	for version, err := range map[string]error{"": nil, "2.14.4": nil, "2.15.3": nil, "2.14.1": ErrTooOld} {
		info.Config.Metadata = map[string]string{metaVersion: version}
		require.ErrorIs(t, v.leader(info), err, version)
	}
	require.ErrorContains(t, v.leader(&jetstream.StreamInfo{
		Config: jetstream.StreamConfig{Metadata: map[string]string{metaVersion: "2.14.1"}}, Cluster: info.Cluster,
	}), "server n2 runs nats-server 2.14.1")
	require.NotEmpty(t, embeddedStream(t).Config.Metadata[metaVersion], "the server says it under another key")
}

func embeddedStream(t *testing.T) *jetstream.StreamInfo {
	b, err := Open(t.Context(), Config{DataDir: t.TempDir()}, Options{Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b.Stream.CachedInfo()
}

// The embedded broker has none of the faults for which others get a warning.
func TestEmbeddedVersion(t *testing.T) {
	unsynced, err := checkVersion("embedded", server.VERSION)
	require.NoError(t, err)
	require.False(t, unsynced)
}
