package registry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
)

// showable requires that the text of an error is safe for a terminal.
func showable(t *testing.T, err error) {
	t.Helper()
	text := (&Error{Op: OpTags, Repository: reference.MustRepository("quay.io/a/b"), Err: err}).Error()
	require.Equal(t, -1, strings.IndexFunc(text, func(c rune) bool { return !strconv.IsPrint(c) }), "%q", text)
}

// FuzzLinks: the result is a query that the Link header contains, an error, or nothing.
func FuzzLinks(f *testing.F) {
	f.Fuzz(func(t *testing.T, value string) {
		query, err := nextOf(value)
		if err != nil {
			require.ErrorIs(t, err, ErrPagination)
			require.Empty(t, query)
			showable(t, err)
			return
		}
		require.Contains(t, value, query)
	})
}

// FuzzLocation: the result is a valid URL, which a proxy that normalises paths does not change.
func FuzzLocation(f *testing.F) {
	opened, err := url.Parse("https://registry.example.com/v2/mirror/app/blobs/uploads/")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, value string) {
		to, err := answer{header: http.Header{"Location": {value}}, url: opened}.location("/mirror/app/blobs/")
		if err != nil {
			require.Nil(t, to)
			showable(t, err)
			return
		}
		require.Contains(t, []string{"http", "https"}, to.Scheme)
		require.NotEmpty(t, to.Host)
		require.Nil(t, to.User)
		require.Empty(t, to.Fragment)
		require.NotContains(t, "/"+to.Path+"/", "/../")
		require.NotContains(t, "/"+to.Path+"/", "/./")
	})
}

// FuzzTags: each name on a page is a valid tag, or an error that quotes it.
func FuzzTags(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		names, err := readTags(answer{status: http.StatusOK, body: body})
		if err != nil {
			require.Nil(t, names)
			showable(t, err)
		}
		for _, name := range names {
			tag, err := ParseTag(name)
			if err != nil {
				require.ErrorAs(t, err, new(*TagError))
				showable(t, err)
				continue
			}
			require.Equal(t, name, tag.String())
		}
	})
}

// FuzzManifest: all references of a manifest are digests, and an index that is written again has
// the same entries.
func FuzzManifest(f *testing.F) {
	f.Fuzz(func(t *testing.T, contentType, digest string, body []byte) {
		got := answer{status: http.StatusOK, header: http.Header{"Content-Type": {contentType}, digestHeader: {digest}}, body: body}
		m, err := read(got, reference.MustTag("1"))
		if err != nil {
			showable(t, err)
			return
		}
		require.Equal(t, m.Digest, m.Digest.Of(body))
		require.GreaterOrEqual(t, m.ContentSize(), int64(0))
		blobs, err := m.Blobs()
		for _, blob := range blobs {
			require.NoError(t, err)
			require.False(t, blob.Digest.IsZero())
		}
		entries, err := m.Entries()
		if err != nil {
			require.ErrorIs(t, err, ErrBadManifest)
			return
		}
		again, err := m.WithEntries(entries, map[string]string{"a": "b"})
		if err != nil || !m.IsIndex() {
			return
		}
		require.True(t, json.Valid(again.Raw))
		same, err := again.Entries()
		require.NoError(t, err)
		require.Len(t, same, len(entries))
		for i, entry := range entries {
			require.False(t, entry.Digest.IsZero())
			require.Equal(t, entry.Descriptor, same[i].Descriptor)
		}
	})
}

// FuzzPage: any unexpected answer is described in one line.
func FuzzPage(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		showable(t, refusal(http.StatusUnauthorized, diagnose(body), login{}))
		if came := notJSON(body); came != "" {
			showable(t, &pageError{http.StatusOK, came, aManifest})
		}
	})
}
