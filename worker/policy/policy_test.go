package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/policy"
)

// machine returns the root folder of a machine without a policy.
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

// TestFind: the first file counts.
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
	require.Equal(t, named, policy.Find(root), "reading it then fails")
}

// TestLoad: a policy that accepts every image is like none. A policy that this program cannot check
// is an error.
func TestLoad(t *testing.T) {
	const accept, signed = `[{"type":"insecureAcceptAnything"}]`, `[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]`
	for text, strict := range map[string]bool{
		`{"default":` + accept + `}`: false,
		`{"default":` + accept + `,"transports":{"docker":{"quay.io":` + accept + `}}}`:                                false,
		`{"default":` + accept + `,"transports":{"docker-daemon":{"":` + accept + `},"dir":{"":[{"type":"reject"}]}}}`: false,
		`{"default":[{"type":"reject"}]}`: true,
		`{"default":` + signed + `}`:      true,
		`{"default":` + accept + `,"transports":{"docker":{"quay.io/osism":` + signed + `}}}`: true,
		`{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`:                   true,
		`{"default":[]}`: true,
		`{}`:             true,
	} {
		root := machine(t)
		path := filepath.Join(root, "etc/containers/policy.json")
		write(t, path, text)
		p, err := policy.Load(root)
		if strict && !policy.CanVerify {
			require.ErrorIs(t, err, policy.ErrUnenforceable, text)
			require.ErrorContains(t, err, path)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, strict, p.IsStrict(), text)
		if strict {
			require.Equal(t, policy.Policy{Path: path, Text: []byte(text)}, p)
		}
	}
	root := machine(t)
	p, err := policy.Load(root)
	require.NoError(t, err)
	require.False(t, p.IsStrict(), "there is none")
	write(t, filepath.Join(root, "etc/containers/policy.json"), "{")
	_, err = policy.Load(root)
	require.ErrorIs(t, err, policy.ErrUnreadable)
	require.ErrorContains(t, err, root+"/etc/containers/policy.json")
	t.Setenv("CONTAINERS_POLICY_JSON", filepath.Join(root, "missing.json"))
	_, err = policy.Load(root)
	require.ErrorIs(t, err, policy.ErrUnreadable)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestChange: a changed policy takes effect at once, however the file is replaced.
func TestChange(t *testing.T) {
	const accept, reject = `{"default":[{"type":"insecureAcceptAnything"}]}`, `{"default":[{"type":"reject"}]}`
	for name, change := range map[string]func(t *testing.T, path string){
		"in place": func(t *testing.T, path string) { write(t, path, reject) },
		"of the same size, just after it was written": func(t *testing.T, path string) {
			write(t, path, accept+"\n")
			_, err := policy.Load("")
			require.NoError(t, err)
			info, err := os.Stat(path)
			require.NoError(t, err)
			write(t, path, reject+strings.Repeat("\n", len(accept)+1-len(reject)))
			require.NoError(t, os.Chtimes(path, time.Time{}, info.ModTime()))
		},
		"moved, of the same size and time": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			require.NoError(t, err)
			write(t, path+".new", reject+strings.Repeat("\n", len(accept)-len(reject)))
			require.NoError(t, os.Chtimes(path+".new", time.Time{}, info.ModTime()))
			require.NoError(t, os.Rename(path+".new", path))
		},
		"removed": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"unreadable": func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Mkdir(path, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(machine(t), "policy.json")
			t.Setenv("CONTAINERS_POLICY_JSON", path)
			write(t, path, accept)
			old := time.Now().Add(-time.Hour)
			require.NoError(t, os.Chtimes(path, old, old))
			for range 2 {
				p, err := policy.Load("")
				require.NoError(t, err)
				require.False(t, p.IsStrict())
			}
			change(t, path)
			p, err := policy.Load("")
			require.True(t, err != nil || p.IsStrict())
		})
	}
}
