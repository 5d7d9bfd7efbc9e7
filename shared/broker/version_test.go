package broker

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
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
		require.EqualError(t, err, "the broker is too old: n1 is nats-server "+version+", which loses plans and failures: upgrade it to 2.14.4 or newer, best to 2.15.2 or newer")
	}
	for _, version := range []string{"", "two.14.0", "2.x.0", "2.14.4.1", "2.015.3", "2.15.3\n"} {
		_, err := checkVersion("n1", version)
		require.ErrorIs(t, err, ErrTooOld, version)
		require.ErrorContains(t, err, "the version of n1 cannot be read: ", version)
		require.ErrorContains(t, err, "needed is nats-server 2.14.4 or newer", version)
	}
}

// The broker in this process has none of the faults that others are warned of.
func TestEmbeddedVersion(t *testing.T) {
	unsynced, err := checkVersion("embedded", server.VERSION)
	require.NoError(t, err)
	require.False(t, unsynced)
}
