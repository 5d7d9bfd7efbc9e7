package policy_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/policy"
)

// TestRead: the error names the file if it is not a policy, if it names keys that cannot be read,
// or if this program cannot check it.
func TestRead(t *testing.T) {
	folder := t.TempDir()
	path, key := filepath.Join(folder, "policy.json"), filepath.Join(folder, "key")
	_, err := policy.Read(path)
	require.ErrorIs(t, err, policy.ErrUnreadable)
	require.ErrorContains(t, err, path)
	_, err = policy.Read(folder)
	require.ErrorIs(t, err, policy.ErrUnreadable)

	const accept = `[{"type":"insecureAcceptAnything"}]`
	write(t, path, `{"default":`+accept+`}`)
	p, err := policy.Read(path)
	require.NoError(t, err)
	require.Equal(t, path, p.Path)

	for _, text := range []string{``, `{`, `[]`, `7`, `{"default":7}`} {
		write(t, path, text)
		_, err := policy.Read(path)
		require.ErrorIs(t, err, policy.ErrUnreadable, text)
		require.ErrorContains(t, err, path)
	}
	if policy.CanVerify {
		for _, text := range []string{`{}`, `{"default":[]}`, `{"default":` + accept + `,"defaults":` + accept + `}`, `{"default":[{"type":"signedBye"}]}`} {
			write(t, path, text)
			_, err := policy.Read(path)
			require.ErrorIs(t, err, policy.ErrUnreadable, text)
		}
	}

	for scope, possible := range map[string]bool{
		"": true, "quay.io": true, "quay.io/osism": true, "docker.io/library/nginx:1": true, "localhost/a": true, "127.0.0.1:5000": true, "*.example.com": true,
		"nginx": false, "library/nginx": false, "index.docker.io": false, "registry-1.docker.io/library": false,
	} {
		write(t, path, fmt.Sprintf(`{"default":`+accept+`,"transports":{"docker":{%q:`+accept+`}}}`, scope))
		_, err := policy.Read(path)
		if possible {
			require.NoError(t, err, scope)
		} else {
			require.ErrorIs(t, err, policy.ErrUnreadable, scope)
			require.ErrorContains(t, err, fmt.Sprintf("no image has the name %q", scope))
		}
	}

	for _, requirement := range []string{
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPaths":[%q]}`,
		`{"type":"sigstoreSigned","keyPath":%q}`,
		`{"type":"sigstoreSigned","keyData":"eA==","rekorPublicKeyPath":%q}`,
		`{"type":"sigstoreSigned","fulcio":{"caPath":%q,"oidcIssuer":"https://a","subjectEmail":"a@b"},"rekorPublicKeyData":"eA=="}`,
		`{"type":"sigstoreSigned","pki":{"caRootsPath":%q,"subjectEmail":"a@b"}}`,
		`{"type":"sigstoreSigned","pki":{"caRootsData":"eA==","caIntermediatesPath":%q,"subjectEmail":"a@b"}}`,
	} {
		for _, text := range []string{
			fmt.Sprintf(`{"default":[`+requirement+`]}`, key),
			fmt.Sprintf(`{"default":`+accept+`,"transports":{"docker":{"quay.io":[`+requirement+`]}}}`, key),
		} {
			write(t, path, text)
			_, err := policy.Read(path)
			require.ErrorIs(t, err, policy.ErrUnreadable, text)
			require.ErrorContains(t, err, key)
		}
	}
	write(t, key, "x")
	write(t, path, fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyPath":%q}]}`, key))
	_, err = policy.Read(path)
	if policy.CanVerify {
		require.NoError(t, err)
	} else {
		require.ErrorIs(t, err, policy.ErrUnenforceable)
		require.ErrorContains(t, err, path)
	}
}

// TestAsksForSigstore: of the given scopes, the first that the policy has counts.
func TestAsksForSigstore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	const signed, other = `[{"type":"sigstoreSigned","keyData":"eA=="}]`, `[{"type":"insecureAcceptAnything"}]`
	for _, test := range []struct {
		text string
		want bool
	}{
		{`{"default":` + signed + `}`, true},
		{`{"default":` + other + `}`, false},
		{`{"default":` + signed + `,"transports":{"docker":{"quay.io":` + other + `}}}`, false},
		{`{"default":` + other + `,"transports":{"docker":{"quay.io":` + signed + `}}}`, true},
		{`{"default":` + other + `,"transports":{"docker":{"quay.io":` + signed + `,"quay.io/a:1":` + other + `}}}`, false},
		{`{"default":` + signed + `,"transports":{"docker":{"":` + other + `}}}`, false},
		{`{"default":` + signed + `,"transports":{"docker":{"docker.io":` + other + `}}}`, true},
	} {
		write(t, path, test.text)
		p := policy.Policy{Path: path, Text: []byte(test.text)}
		require.Equal(t, test.want, p.AsksForSigstore("quay.io/a:1", "quay.io/a", "quay.io"), test.text)
	}
}
