package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/config"
)

type common struct {
	Size   int    `envconfig:"CHUNK_SIZE"`
	Source string `envconfig:"MIRROR_SOURCE_URL"`
	Dest   string `envconfig:"MIRROR_DEST_URL"`
	Cert   string `envconfig:"NATS_CERT"`
	Key    string `envconfig:"NATS_KEY"`
	NKey   string `envconfig:"NATS_NKEY"`
	Limit  int    `envconfig:"LIMIT"`
	Hosts  string `envconfig:"INSECURE_REGISTRIES"`
}

func TestNearMisses(t *testing.T) {
	for name, ours := range map[string]string{
		"CHUNKSIZE": "CHUNK_SIZE", "chunk_size": "CHUNK_SIZE", "CHUNK-SIZE": "CHUNK_SIZE", "CHUNK_SZIE": "CHUNK_SIZE", "CHUNKS_SIZE": "CHUNK_SIZE",
		"MIRROR_SOURCE": "MIRROR_SOURCE_URL", "MIRROR_DESTINATION_URL": "MIRROR_DEST_URL", "MIRROR_SOURCE_URI": "MIRROR_SOURCE_URL",
		"INSECURE_REGISTRY": "INSECURE_REGISTRIES", "LIMITS": "LIMIT",
	} {
		require.Equal(t, []string{name + " is set but not read; is " + ours + " meant?"},
			config.NearMisses([]string{"PATH=/bin", name + "=s3cret"}, &common{}), name)
	}
	// Kubernetes sets variables of services; others belong to other programs.
	for _, name := range []string{
		"NATS_PORT", "NATS_SERVICE_HOST", "NATS_SERVICE_PORT", "NATS_PORT_4222_TCP", "NATS_PORT_4222_TCP_ADDR",
		"MIRROR_PORT", "MIRROR_SERVICE_HOST", "CHUNK", "SIZE", "PATH", "HOME", "LIST", "REGISTRY_AUTH_FILE", "",
	} {
		require.Empty(t, config.NearMisses([]string{name + "=1"}, &common{}), name)
	}
	require.Empty(t, config.NearMisses([]string{"NATS_KEY=a", "NATS_CERT=b"}, &common{}), "each is one of ours")
	require.Empty(t, config.NearMisses([]string{"CHUNKSIZE=1", "CHUNK_SIZE=2"}, &common{}), "the right one is set as well")
	require.Empty(t, config.NearMisses([]string{"CHUNKSIZE="}, &common{}), "set to nothing")
}
