package policy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/policy"
)

// machine is a machine without a policy; it returns its root.
func machine(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	t.Setenv("HOME", filepath.Join(root, "home"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "config"))
	t.Setenv("CONTAINERS_POLICY_JSON", "")
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// TestFind: the first place counts.
func TestFind(t *testing.T) {
	root := machine(t)
	require.Empty(t, policy.Find(root))
	for _, place := range []string{
		"usr/share/containers/policy.json", "etc/containers/policy.json",
		"home/.config/containers/policy.json", "config/containers/policy.json",
	} {
		path := filepath.Join(root, place)
		write(t, path, "{}")
		require.Equal(t, path, policy.Find(root))
	}
	named := filepath.Join(root, "missing.json")
	t.Setenv("CONTAINERS_POLICY_JSON", named)
	require.Equal(t, named, policy.Find(root), "whoever reads it says that it is missing")
}

func TestEnforceable(t *testing.T) {
	const accept, signed = `[{"type":"insecureAcceptAnything"}]`, `[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]`
	for text, enforceable := range map[string]bool{
		`{"default":` + accept + `}`: true,
		`{"default":` + accept + `,"transports":{"docker":{"quay.io":` + accept + `}}}`:                                true,
		`{"default":` + accept + `,"transports":{"docker-daemon":{"":` + accept + `},"dir":{"":[{"type":"reject"}]}}}`: true,
		`{"default":[{"type":"reject"}]}`: false,
		`{"default":` + signed + `}`:      false,
		`{"default":` + accept + `,"transports":{"docker":{"quay.io/osism":` + signed + `}}}`: false,
		`{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`:                   false,
		`{"default":[]}`: false,
		`{}`:             false,
	} {
		root := machine(t)
		write(t, filepath.Join(root, "etc/containers/policy.json"), text)
		err := policy.Enforceable(root)
		if enforceable {
			require.NoError(t, err, text)
		} else {
			require.ErrorIs(t, err, policy.ErrUnenforceable, text)
			require.ErrorContains(t, err, root+"/etc/containers/policy.json")
		}
	}
	root := machine(t)
	require.NoError(t, policy.Enforceable(root), "there is none")
	write(t, filepath.Join(root, "etc/containers/policy.json"), "{")
	require.ErrorContains(t, policy.Enforceable(root), root+"/etc/containers/policy.json")
	t.Setenv("CONTAINERS_POLICY_JSON", filepath.Join(root, "missing.json"))
	require.ErrorIs(t, policy.Enforceable(root), os.ErrNotExist)
}
