package reference_test

import (
	"encoding/json"
	"net/url"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
)

// name is implemented by all types that hold only a name.
type name interface {
	comparable
	String() string
}

// holds requires that a parsed name equals the text, survives JSON, and is not changed in a
// URL, even by a proxy that normalizes paths. The error of an invalid name must be safe for a
// terminal.
func holds[T name](t *testing.T, text string, parsed T, err error) {
	t.Helper()
	if err != nil {
		require.Zero(t, parsed)
		require.Equal(t, -1, strings.IndexFunc(err.Error(), func(c rune) bool { return !strconv.IsPrint(c) }), "%q", err)
		require.Less(t, len(err.Error()), 2000)
		return
	}
	require.Equal(t, text, parsed.String())
	encoded, err := json.Marshal(parsed)
	require.NoError(t, err)
	var again T
	require.NoError(t, json.Unmarshal(encoded, &again))
	require.Equal(t, parsed, again)

	target := "/v2/a/manifests/" + text
	require.Equal(t, target, path.Clean(target))
	u := url.URL{Scheme: "https", Host: "registry.example.com", Path: target}
	sent, err := url.Parse(u.String())
	require.NoError(t, err)
	require.Equal(t, target, sent.Path)
	require.Empty(t, sent.RawQuery+sent.Fragment)
}

func FuzzTag(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		tag, err := reference.ParseTag(text)
		holds(t, text, tag, err)
		require.Equal(t, err == nil, !strings.ContainsFunc(text, func(c rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", c)
		}) && text != "" && len(text) <= 128 && text[0] != '.' && text[0] != '-')
	})
}

func FuzzDigest(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		digest, err := reference.ParseDigest(text)
		holds(t, text, digest, err)
		algorithm, hex, _ := strings.Cut(text, ":")
		lengths := map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}
		require.Equal(t, err == nil, len(hex) == lengths[algorithm] && hex != "" && strings.Trim(hex, "0123456789abcdef") == "")
	})
}

func FuzzRepository(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		repository, err := reference.ParseRepository(text)
		holds(t, text, repository, err)
		if err == nil {
			require.Equal(t, text, repository.Registry()+"/"+repository.Path())
			require.NotContains(t, repository.Registry(), "/")
		}
	})
}

// FuzzParse parses references as people write them, and names made of them.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		r, err := reference.Parse(text)
		if err != nil {
			require.ErrorIs(t, err, reference.ErrInvalid)
			holds(t, text, reference.Repository{}, err)
			return
		}
		again, err := reference.ParseCanonical(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
		holds(t, r.Repository.String(), r.Repository, nil)
		if tag := r.DestinationTag(); !tag.IsZero() {
			holds(t, tag.String(), tag, nil)
		}
	})
}

func FuzzDestination(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		d, err := reference.ParseDestination(text)
		if err != nil {
			holds(t, text, reference.Repository{}, err)
			return
		}
		again, err := reference.ParseDestination(d.String())
		require.NoError(t, err)
		require.Equal(t, d, again)
		if repository, err := reference.ParseRepository(d.Repository("a")); err == nil {
			require.Equal(t, d.Host, repository.Registry())
		}
	})
}
