package registry

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
)

// nextOf returns the query of the next page of tags after an answer with these headers.
func nextOf(headers ...string) (string, error) {
	page, _ := url.Parse("https://registry.example.com/v2/team/app/tags/list?n=2")
	return (&call{path: tagsList}).nextQuery(answer{header: http.Header{"Link": headers}, url: page})
}

const here = "</v2/team/app/tags/list?n=2&last=b>"

func TestNextLinks(t *testing.T) {
	for _, value := range []string{
		here + `; rel="next"`,
		here + `; rel=next`,
		here + `;rel=next`,
		here + `;   rel  =	"next"  ;`,
		here + `; REL="NEXT"`,
		here + `; Rel=Next`,
		here + `; n="1, 2; 3"; title="a \"b\", <c>; rel=\"last\""; rel="next"`,
		here + `; crossorigin; title*=UTF-8''%e2%82%ac%20rates; rel="next"; type="application/json"`,
		here + `; rel="prev next"`,
		here + `; rel="https://example.com/rel/page	next"`,
		here + `; rel=next; rel=last`,
		`</v2/team/app/tags/list?n=2>; rel="first", ` + here + `; rel="next", <https://docs.example.com/>; rel=help`,
		` ,, ` + here + `; rel="next" ,`,
		`<https://registry.example.com/v2/team/app/tags/list?n=2&last=b>; rel="next"`,
		`<http://internal:5000/behind/v2/team/app/tags/list?n=2&last=b>; rel="next"`,
		`<//registry.example.com/v2/team/app/tags/list?n=2&last=b>; rel="next"`,
		`<list?n=2&last=b>; rel="next"`,
		`<?n=2&last=b>; rel="next"`,
	} {
		query, err := nextOf(value)
		require.NoError(t, err, value)
		require.Equal(t, "n=2&last=b", query, value)
	}
	query, err := nextOf(`<https://docs.example.com/>; rel="help"`, here+`; rel="next"`)
	require.NoError(t, err)
	require.Equal(t, "n=2&last=b", query, "of several headers")
}

func TestLinksToNoNextPage(t *testing.T) {
	for _, value := range []string{
		"", " ", ",",
		here + `; rel="first"`,
		here + `; rel="last previous"`,
		here + `; rel="nextish"`,
		here + `; rel="https://example.com/next"`,
		`<https://docs.example.com/a,b>; rel="help"; title="rel=next"`,
	} {
		query, err := nextOf(value)
		require.NoError(t, err, value)
		require.Empty(t, query, value)
	}
	query, err := nextOf()
	require.NoError(t, err)
	require.Empty(t, query)
}

func TestLinksThatCannotBeRead(t *testing.T) {
	for value, want := range map[string]string{
		here:                                          "has no relation",
		here + `; title="next"`:                       "has no relation",
		here + `; rel`:                                "has no relation",
		here + `; rel=""`:                             "has no relation",
		here + `; "rel"=next`:                         "has no relation",
		here + `; rel='next'`:                         `has the relation "'next'"`,
		here + `; rel=next"`:                          "has the relation",
		here + `; rel="next`:                          "expected <target>",
		here + `; rel="next\`:                         "expected <target>",
		here + ` rel="next"`:                          "expected <target>",
		here + `; rel="next" next`:                    "expected <target>",
		`/v2/team/app/tags/list?last=b; rel="next"`:   "expected <target>",
		`</v2/team/app/tags/list?last=b; rel="next"`:  "expected <target>",
		`<:>; rel="next"`:                             "is not a URL",
		`<%>; rel="next"`:                             "is not a URL",
		`< ?last=b >; rel="next"`:                     "is not a URL",
		here + `; rel=prev; rel="last next"`:          "next after another rel",
		`</v2/team/app/tags/list>; rel="next"`:        "not one of this list",
		`</v2/team/app/tags/list/2?last=b>; rel=next`: "not one of this list",
		`<#a>; rel="next"`:                            "not one of this list",
		`<>; rel="next"`:                              "not one of this list",
		`</v2/_catalog?last=b>; rel="next"`:           "not one of this list",
		`<https://evil.example.com?last=b>; rel=next`: "not one of this list",
		here + `; rel="next"; anchor="#a"`:            "not one of this list",
		here + `; rel=next, <?last=c>; rel=next`:      "two next pages",
		"\x1b[31m<\n":                                 `"\x1b[31m<\n"`,
	} {
		query, err := nextOf(value)
		require.ErrorIs(t, err, ErrPagination, value)
		require.ErrorContains(t, err, want, value)
		require.Empty(t, query, value)
		require.Equal(t, -1, strings.IndexAny(err.Error(), "\x1b\n"), "a terminal shows it")
	}
}

func TestNextLinksOfReferrers(t *testing.T) {
	digest := reference.DigestOf(nil)
	page, err := url.Parse("https://registry.example.com/v2/team/app/referrers/" + digest.String())
	require.NoError(t, err)
	list := &call{path: referrers, reference: digest}
	for target, want := range map[string]string{
		page.Path + "?page=2": "page=2",
		"https://internal/x" + strings.Replace(page.Path, ":", "%3A", 1) + "?page=2": "page=2",
		"?page=2": "page=2",
		"/v2/team/app/referrers/" + reference.DigestOf([]byte("x")).String() + "?page=2": "",
		"/v2/team/app/tags/list?page=2": "",
	} {
		query, err := list.nextQuery(answer{header: http.Header{"Link": {"<" + target + `>; rel="next"`}}, url: page})
		require.Equal(t, want, query, target)
		require.Equal(t, want == "", err != nil, target)
	}
}
