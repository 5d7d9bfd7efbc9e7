package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// listed makes the pages of a list. It returns the items of page n, from 1, and the number of the
// next page; 0 after the last.
type listed func(n int) (items []string, next int)

// book serves lists, and counts the requested pages.
func book(t *testing.T, pages listed) (c *registry.Client, host string, turned *int) {
	t.Helper()
	turned = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		*turned++
		n := 1
		_, _ = fmt.Sscan(r.URL.Query().Get("page"), &n)
		items, next := pages(n)
		if next > 0 {
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, next))
		}
		if !strings.Contains(r.URL.Path, "/referrers/") {
			_ = json.NewEncoder(w).Encode(map[string]any{"tags": items})
			return
		}
		for i, item := range items {
			items[i] = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"` + reference.DigestOf([]byte(item)).String() + `"}`
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}`, strings.Join(items, ","))
	}))
	t.Cleanup(server.Close)
	host = server.Listener.Addr().String()
	return registry.NewClient(registry.Options{Insecure: []string{host}}), host, turned
}

// some returns n items that only this page has.
func some(page, n int) []string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf("%d.%d", page, i)
	}
	return items
}

func TestEndlessLists(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pages  listed
		turned int
		is     error
		text   string
	}{
		"a page leads to itself":  {func(n int) ([]string, int) { return some(n, 1), 1 }, 2, registry.ErrPagination, " repeats page "},
		"two lead to each other":  {func(n int) ([]string, int) { return some(n, 1), 2 - (n+1)%2 }, 3, registry.ErrPagination, " repeats page "},
		"a thousand lead back":    {func(n int) ([]string, int) { return some(n, 1), n%1000 + 1 }, 1001, registry.ErrPagination, " repeats page "},
		"nothing is on them":      {func(n int) ([]string, int) { return nil, n + 1 }, 101, registry.ErrPagination, "101 pages in a row are empty"},
		"always more pages":       {func(n int) ([]string, int) { return some(n, 1), n + 1 }, 10_000, registry.ErrTooMany, "too many pages: the list has more than 10000"},
		"always more on the page": {func(n int) ([]string, int) { return some(n, 1000), n + 1 }, 251, registry.ErrTooMany, "too many: the list has more than 250000"},
	} {
		t.Run(name, func(t *testing.T) {
			c, host, turned := book(t, test.pages)
			_, err := tags(t.Context(), c, host+"/a")
			require.ErrorIs(t, err, test.is)
			require.ErrorContains(t, err, test.text)
			require.Equal(t, test.turned, *turned)
			if name == "always more on the page" {
				return // the caller stops long before
			}
			_, err = referrers(t.Context(), c, host+"/a", reference.DigestOf(nil).String())
			require.ErrorIs(t, err, test.is)
			require.ErrorContains(t, err, test.text)
		})
	}
}

// TestSamePageWithNewLinks: a registry that ignores the page number is detected at once.
func TestSamePageWithNewLinks(t *testing.T) {
	c, host, turned := book(t, func(n int) ([]string, int) { return some(n%3, 2), n + 1 })
	all, err := tags(t.Context(), c, host+"/a")
	require.ErrorIs(t, err, registry.ErrPagination)
	require.ErrorContains(t, err, "list tags of "+host+"/a: incomplete list: page 4 repeats page 1")
	require.Len(t, all, 6)
	require.Equal(t, 4, *turned)
}

// TestLongLists: a long list is listed to its end, even with empty pages in between.
func TestLongLists(t *testing.T) {
	c, host, _ := book(t, func(n int) ([]string, int) {
		switch {
		case n == 500:
			return some(n, 1), 0
		case n%2 == 0:
			return nil, n + 1
		}
		return some(n, 990), n + 1
	})
	all, err := tags(t.Context(), c, host+"/a")
	require.NoError(t, err)
	require.Len(t, all, 250*990+1)
}

// TestPageTooLong: the items of a page above the limit are not kept in memory.
func TestPageTooLong(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"tags":    `{"tags":[` + strings.Repeat(`"",`, 1<<20) + `""]}`,
		"objects": `{"manifests":[` + strings.Repeat(`{},`, 1<<17) + `{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
					fmt.Fprint(w, body)
				}
			}))
			defer server.Close()
			host := server.Listener.Addr().String()
			c := registry.NewClient(registry.Options{Insecure: []string{host}})
			if name == "tags" {
				_, err := tags(t.Context(), c, host+"/a")
				require.ErrorIs(t, err, registry.ErrTooMany)
				return
			}
			_, err := c.Get(t.Context(), reference.MustRepository(host+"/a"), reference.MustTag("1"))
			require.Error(t, err)
		})
	}
}

func TestTagLinks(t *testing.T) {
	for name, test := range map[string]struct {
		link string
		want []string
		is   error
	}{
		"relative":        {`</v2/a/tags/list?n=2&last=x>; rel="next"`, []string{"1", "2"}, nil},
		"without a path":  {`<?last=x>; rel=next`, []string{"1", "2"}, nil},
		"behind a proxy":  {`<http://internal:5000/v2/a/tags/list?last=x>; rel="next"`, []string{"1", "2"}, nil},
		"not the next":    {`</v2/a/tags/list?last=x>; rel="first"`, []string{"1"}, nil},
		"to itself":       {`</v2/a/tags/list?n=1000>; rel="next"`, []string{"1"}, registry.ErrPagination},
		"null and no end": {``, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Query().Get("last") == "x":
					fmt.Fprint(w, `{"tags":["2"]}`)
				case r.URL.Path == "/v2/":
				case test.link == "":
					fmt.Fprint(w, `{"tags":null}`)
				default:
					w.Header().Set("Link", test.link)
					fmt.Fprint(w, `{"tags":["1"]}`)
				}
			}))
			defer server.Close()
			host := server.Listener.Addr().String()
			c := registry.NewClient(registry.Options{Insecure: []string{host}})
			all, err := tags(t.Context(), c, host+"/a")
			require.ErrorIs(t, err, test.is)
			require.Equal(t, test.want, all)
		})
	}
}

func TestTagsOfNoRepository(t *testing.T) {
	r := registrytest.New(t)
	_, err := tags(t.Context(), insecure(r, nil), r.Host()+"/no/such")
	require.EqualError(t, err, "list tags of "+r.Host()+"/no/such: not found: repository name not known to registry (404)")
	for _, err := range insecure(r, nil).Tags(t.Context(), reference.Repository{}) {
		require.ErrorIs(t, err, registry.ErrName)
	}
	_, err = insecure(r, nil).Head(t.Context(), reference.MustRepository(r.Host()+"/no/such"), reference.Tag{})
	require.ErrorIs(t, err, registry.ErrName)
}
