package listing_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// script returns the names on page n, from 1, of a bulk API, and whether there is another
// page.
type script func(n int) (names []any, more bool)

// scripted is a network in which both bulk APIs follow a script, and the OCI API has one tag,
// "oci".
type scripted struct {
	script
	pages int // of the bulk API
}

func (s *scripted) RoundTrip(request *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	switch path := request.URL.Path; {
	case path == "/v2/":
	case strings.HasSuffix(path, "/tags/list"):
		fmt.Fprint(w, `{"tags":["oci"]}`)
	default:
		s.pages++
		var n int
		_, _ = fmt.Sscan(request.URL.Query().Get("page"), &n)
		names, more := s.script(n)
		tags := []any{}
		for _, name := range names {
			tags = append(tags, map[string]any{"name": name})
		}
		answer := map[string]any{"tags": tags, "page": n, "has_additional": more, "results": tags, "next": nil}
		if more {
			answer["next"] = request.URL.String()
		}
		_ = json.NewEncoder(w).Encode(answer)
	}
	response := w.Result()
	response.Request = request
	return response, nil
}

func (s *scripted) setup() *setup {
	return &setup{Listers: listing.New(listing.Options{
		Registry: registry.NewClient(registry.Options{Transport: s}), Log: slog.New(slog.DiscardHandler),
	})}
}

func some(page, n int) (names []any) {
	for i := range n {
		names = append(names, fmt.Sprintf("%d.%d", page, i))
	}
	return names
}

// TestEndlessBulk: if a bulk API has no end or makes no sense, the OCI API is used.
func TestEndlessBulk(t *testing.T) {
	for name, test := range map[string]struct {
		script
		pages int
		want  int // tags, including the OCI API's
	}{
		"the same page":       {func(int) ([]any, bool) { return some(1, 2), true }, 2, 3},
		"two pages in turn":   {func(n int) ([]any, bool) { return some(n%2, 2), true }, 3, 5},
		"a hundred in turn":   {func(n int) ([]any, bool) { return some(n%100, 2), true }, 101, 201},
		"nothing on them":     {func(int) ([]any, bool) { return nil, true }, 101, 1},
		"more than asked for": {func(n int) ([]any, bool) { return some(n, 1001), true }, 1, 1},
		"no name":             {func(n int) ([]any, bool) { return []any{"a", nil}, true }, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, repository string) {
				network := &scripted{script: test.script}
				all, err := network.setup().list(t.Context(), repository)
				require.NoError(t, err)
				require.Len(t, all, test.want)
				require.Equal(t, "oci", all[len(all)-1].Name.String())
				require.Equal(t, test.pages, network.pages)
			})
		})
	}
}

// TestTooManyTags: the limit holds for all APIs.
func TestTooManyTags(t *testing.T) {
	network := &scripted{script: func(n int) ([]any, bool) { return some(n, 1000), true }}
	all, err := network.setup().list(t.Context(), inQuay)
	require.ErrorIs(t, err, registry.ErrTooMany)
	require.EqualError(t, err, "list tags of "+inQuay+": too many: the list has more than 250000")
	require.Len(t, all, 250_000)
	require.Equal(t, 251, network.pages)
}

// TestInvalidNames: they do not keep other names from being listed.
func TestInvalidNames(t *testing.T) {
	both(t, func(t *testing.T, repository string) {
		network := &scripted{script: func(n int) ([]any, bool) {
			return []any{fmt.Sprint("a", n), "../../../victim/app/manifests/latest", fmt.Sprint("b", n), "\x1b[31m"}, n < 3
		}}
		var bad []string
		var good []listing.Tag
		from := reference.MustRepository(repository)
		for tag, err := range network.setup().For(from).Tags(t.Context(), from) {
			if none := (*registry.TagError)(nil); errors.As(err, &none) {
				bad = append(bad, none.Name)
				require.NotContains(t, err.Error(), "\x1b")
				continue
			}
			require.NoError(t, err)
			good = append(good, tag)
		}
		require.Equal(t, []string{"a1", "b1", "a2", "b2", "a3", "b3"}, namesOf(good))
		require.Len(t, bad, 6)
		require.Contains(t, bad, "../../../victim/app/manifests/latest")
	})
}

// TestOddEntry: of an entry with unexpected fields, only the name is used. It does not affect
// other entries.
func TestOddEntry(t *testing.T) {
	digest := "sha256:" + strings.Repeat("1", 64)
	for name, odd := range map[string]string{
		"digest": `{"name":"odd","digest":7,"manifest_digest":7}`,
		"times":  `{"name":"odd","last_updated":7,"last_modified":7,"start_ts":"x"}`,
		"sizes":  `{"name":"odd","full_size":"7","size":"7","images":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, repository string) {
				s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{})
				s.push(t, repository, "a")
				r, _ := s.upstream(repository)
				entries := `[{"name":"a","digest":"` + digest + `","manifest_digest":"` + digest + `"},` + odd + `]`
				r.Inject(registrytest.Fault{Match: bulk, Status: http.StatusOK, Body: `{"results":` + entries + `,"tags":` + entries + `,"has_additional":false}`})
				tags, err := s.list(t.Context(), repository)
				require.NoError(t, err)
				require.Equal(t, []string{"a", "odd"}, namesOf(tags))
				require.Equal(t, digest, tags[0].Digest.String())
				require.True(t, tags[1].Digest.IsZero())
				require.Empty(t, s.log.String())
			})
		})
	}
}
