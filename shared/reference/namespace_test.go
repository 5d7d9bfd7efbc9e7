package reference

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNamespace(t *testing.T) {
	for text, want := range map[string]string{
		"quay.io/osism/*": "quay.io/osism/*", "Quay.IO/osism/*": "quay.io/osism/*", "quay.io/a/b/c/*": "quay.io/a/b/c/*",
		"docker.io/myorg/*": "docker.io/myorg/*", "registry-1.docker.io/myorg/*": "docker.io/myorg/*", "myorg/*": "docker.io/myorg/*",
		"library/*": "docker.io/library/*", "docker.io/library/*": "docker.io/library/*",
		"registry.example.com:5000/*": "registry.example.com:5000/*", "localhost/*": "localhost/*", "[::1]:5000/a/*": "[::1]:5000/a/*",
	} {
		n, err := ParseNamespace(text)
		require.NoError(t, err, text)
		require.Equal(t, want, n.String(), text)
		require.Equal(t, n.Registry(), n.Address().Registry())
	}
	const asterisk = "the asterisk stands for all repositories of a namespace, so it is the whole last part of a name, as in quay.io/example/*"
	for text, why := range map[string]string{
		"*": asterisk, "quay.io/*/osism": asterisk, "quay.io/osism/a*": asterisk, "quay.io/osism/*:1": asterisk, "quay.io/osism/**": asterisk, "quay.io/*/*": asterisk,
		"docker.io/*":                     "Docker Hub does not list all of its repositories; write docker.io/NAMESPACE/*",
		"quay.io/OSISM/*":                 "repository names are lower case",
		"quay.io/osism:1/*":               "",
		"https://quay.io/a/*":             "",
		"user:pw@quay.io/a/*":             "",
		"quay.io//a/*":                    "",
		"/*":                              "",
		"quay.io/a/*@sha256:" + hex64Text: asterisk,
	} {
		_, err := ParseNamespace(text)
		require.ErrorIs(t, err, errInvalidNamespace, text)
		require.ErrorContains(t, err, why, text)
		require.NotContains(t, err.Error(), "pw@")
	}
	n, err := ParseNamespace("quay.io/osism/*")
	require.NoError(t, err)
	below, ok := n.Has(MustRepository("quay.io/osism/a/b"))
	require.True(t, ok)
	require.Equal(t, "a/b", below)
	_, ok = n.Has(MustRepository("quay.io/osismother/a"))
	require.False(t, ok)
	r, err := n.Repository("osism/a")
	require.NoError(t, err)
	require.Equal(t, "quay.io/osism/a", r.String())
	for _, path := range []string{"other/a", "osism", "osism/../a", "osism/A", "osism/a:1", ""} {
		_, err := n.Repository(path)
		require.ErrorIs(t, err, errInvalidRepository, path)
	}
}

const hex64Text = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
