package skopeo_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const (
	accept = `{"default":[{"type":"insecureAcceptAnything"}]}`
	reject = `{"default":[{"type":"reject"}]}`
)

// withoutPolicy makes the runner find no policy, and returns the folder below which it looks.
func withoutPolicy(t *testing.T, r *skopeo.Runner) (root string) {
	t.Helper()
	root = t.TempDir()
	t.Setenv("HOME", filepath.Join(root, "home"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "config"))
	t.Setenv("CONTAINERS_POLICY_JSON", "")
	r.SetRoot(root)
	return root
}

// places are the paths of policies, in order of precedence.
var places = []string{
	"named.json", "config/containers/policy.json", "home/.config/containers/policy.json",
	"etc/containers/policy.json", "usr/share/containers/policy.json",
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// TestPolicy: the first of several policies counts, even if this version of skopeo does not look
// there.
func TestPolicy(t *testing.T) {
	for i, place := range places {
		for policy, allowed := range map[string]bool{accept: true, reject: false} {
			t.Run(place, func(t *testing.T) {
				from, to, digest, r := pair(t)
				root := withoutPolicy(t, r)
				write(t, filepath.Join(root, place), policy)
				for _, later := range places[i+1:] {
					write(t, filepath.Join(root, later), map[bool]string{true: reject, false: accept}[allowed])
				}
				if place == "named.json" {
					t.Setenv("CONTAINERS_POLICY_JSON", filepath.Join(root, place))
				}
				err := copyImage(t.Context(), r, from, to, digest)
				if allowed {
					require.NoError(t, err)
					return
				}
				require.ErrorContains(t, err, "Source image rejected")
				_, err = to.Manifest(destination, digest)
				require.Error(t, err, "nothing is written")
			})
		}
	}
}

// TestPolicyThatCannotBeRead: nothing is copied, and skopeo's error is returned.
func TestPolicyThatCannotBeRead(t *testing.T) {
	for _, place := range slices.Concat(places, []string{"missing.json"}) {
		for name, spoil := range map[string]func(path string) error{
			"a folder":  func(path string) error { return os.MkdirAll(path, 0o700) },
			"no policy": func(path string) error { write(t, path, "{"); return nil },
		} {
			t.Run(place+" is "+name, func(t *testing.T) {
				from, to, digest, r := pair(t)
				root := withoutPolicy(t, r)
				path := filepath.Join(root, place)
				if place != "missing.json" {
					require.NoError(t, spoil(path))
				}
				if filepath.Dir(place) == "." {
					t.Setenv("CONTAINERS_POLICY_JSON", path)
				}
				err := copyImage(t.Context(), r, from, to, digest)
				require.ErrorContains(t, err, "Error loading trust policy: ")
				require.Empty(t, to.Requests())
			})
		}
	}
}

// TestSkopeoKnowsOfAnotherPolicy: --insecure-policy is used only if skopeo itself finds no
// policy.
func TestSkopeoKnowsOfAnotherPolicy(t *testing.T) {
	for _, test := range []struct{ said, want string }{
		{"Error loading trust policy: open /opt/etc/containers/policy.json: no such file or directory", "--insecure-policy "},
		{`Error loading trust policy: no policy.json file found at any of the following: "/a", "/b"`, "--insecure-policy "},
		{`Error loading trust policy: config file not found: no policy.json file found; searched paths: ["/a" "/b"]`, "--insecure-policy "},
		{"Error loading trust policy: open /opt/etc/containers/policy.json: permission denied", ""},
		{`Error loading trust policy: invalid policy in "/opt/etc/containers/policy.json": unexpected EOF`, ""},
		{"Invalid source name dir:/dev/null/nowhere: lstat /dev/null/nowhere: not a directory", ""},
	} {
		asked := filepath.Join(t.TempDir(), "asked")
		r := script(t, `case "$1" in copy) echo x >>`+asked+`; cat >&2 <<'EOF'
time="2026-01-01T00:00:00Z" level=fatal msg="`+strings.ReplaceAll(test.said, `"`, `\"`)+`"
EOF
;; *) echo "$@" >&2;; esac; exit 1`)
		withoutPolicy(t, r)
		for range 2 {
			err := r.CopyManifest(t.Context(), reference.MustRepository("a.example/b"), reference.DigestOf(nil), reference.MustRepository("c.example/d"))
			require.EqualError(t, err, "--debug "+test.want+"copy --preserve-digests --remove-signatures docker://a.example/b@"+reference.DigestOf(nil).String()+" docker://c.example/d@"+reference.DigestOf(nil).String())
		}
		times, err := os.ReadFile(asked)
		require.NoError(t, err)
		require.Equal(t, "x\n", string(times), "it is asked once")
	}
}

// TestPulls: skopeo reads images itself if registries.conf redirects them or the policy asks for
// signatures, which it pulls, too.
func TestPulls(t *testing.T) {
	const signed = `{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"quay.io/signed":[{"type":"sigstoreSigned","keyPath":"/no/key"}],"quay.io/rejected":[{"type":"reject"}]}}}`
	for name, test := range map[string]struct {
		repository, conf, policy string
		want                     int
	}{
		"no settings":              {"quay.io/a/b", "", "", 0},
		"insecure":                 {"quay.io/a/b", "[[registry]]\nlocation = 'quay.io'\ninsecure = true\n", "", 0},
		"a mirror":                 {"quay.io/a/b", "[[registry]]\nlocation = 'quay.io'\n[[registry.mirror]]\nlocation = 'mirror.example'\n", "", 1},
		"another location":         {"quay.io/a/b", "[[registry]]\nprefix = 'quay.io/a'\nlocation = 'other.example/a'\n", "", 1},
		"of another":               {"quay.io/c/b", "[[registry]]\nprefix = 'quay.io/a'\nlocation = 'other.example/a'\n", "", 0},
		"just this":                {"quay.io/a/b", "[[registry]]\nlocation = 'quay.io/a/b'\ninsecure = true\n", "", 1},
		"unreadable":               {"quay.io/a/b", "[[", "", 1},
		"signed, with a mirror":    {"quay.io/signed/b", "[[registry]]\nlocation = 'quay.io'\n[[registry.mirror]]\nlocation = 'mirror.example'\n", signed, 2},
		"signed":                   {"quay.io/signed/b", "", signed, 2},
		"beside signed":            {"quay.io/a/b", "", signed, 0},
		"a policy that is no JSON": {"quay.io/a/b", "", "{", 2},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			conf := filepath.Join(home, "registries.conf")
			require.NoError(t, os.WriteFile(conf, []byte(test.conf), 0o600))
			t.Setenv("CONTAINERS_REGISTRIES_CONF", conf)
			forget := func() { containers.New(cloud.New()).Forget("quay.io") }
			forget()
			t.Cleanup(forget)
			if test.policy != "" {
				path := filepath.Join(home, "policy.json")
				require.NoError(t, os.WriteFile(path, []byte(test.policy), 0o600))
				t.Setenv("CONTAINERS_POLICY_JSON", path)
			}
			require.Equal(t, test.want, new(skopeo.Runner).Pulls(t.Context(), reference.MustRepository(test.repository)))
		})
	}
}

// TestPullsOfSignatures: a process that looks for a signature of Sigstore pulls as many manifests as Pulls
// returns. Not every build of skopeo verifies such a signature.
func TestPullsOfSignatures(t *testing.T) {
	from, to, digest, r := pair(t)
	key, _, err := registrytest.NewSigningKey()
	require.NoError(t, err)
	at := reference.MustRepository(from.Host() + "/" + source)
	_, err = from.Sign(source, registrytest.Signature{Digest: digest, Key: key, Name: at.String()}, "")
	require.NoError(t, err)
	root := withoutPolicy(t, r)
	write(t, filepath.Join(root, "key.gpg"), "")
	write(t, filepath.Join(root, "home/.config/containers/registries.d/x.yaml"), "docker:\n  "+from.Host()+":\n    use-sigstore-attachments: true\n")
	write(t, filepath.Join(root, "home/.config/containers/policy.json"), `{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"`+filepath.Join(root, "key.gpg")+`"}]}`)
	require.ErrorContains(t, copyImage(t.Context(), r, from, to, digest), "Source image rejected: A signature was required, but no signature exists")
	require.Equal(t, r.Pulls(t.Context(), at), from.Count(registrytest.Kinds(registrytest.KindManifestGet)))
}
