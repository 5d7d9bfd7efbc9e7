package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"strconv"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// tagsPerPage is what registries accept at most (ECR refuses more); many
	// send shorter pages.
	tagsPerPage = 1000

	// maxPageSize bounds a page from a registry that ignores tagsPerPage and
	// sends everything: 50,000 tags of the greatest length are 7 MB.
	maxPageSize = 64 << 20
)

// nextLink is the target of a Link header with rel="next" (RFC 8288).
var nextLink = regexp.MustCompile(`<([^>]*)>\s*;[^,]*\brel="?next\b`)

// Tags lists a repository's tags in the registry's order, asking for a page
// when the one before has been used. A tag that is pushed meanwhile may come
// twice or not at all. A *TagError is about one name, and the listing goes on; any
// other error is the last item. A repository without tags has none; one that does not
// exist is ErrNotFound.
func (c *Client) Tags(ctx context.Context, repository reference.Repository) iter.Seq2[reference.Tag, error] {
	return func(yield func(reference.Tag, error) bool) {
		query := url.Values{"n": {strconv.Itoa(tagsPerPage)}}.Encode()
		for query != "" {
			names, next, err := c.tagPage(ctx, repository, query)
			if err != nil {
				yield(reference.Tag{}, err)
				return
			}
			for _, name := range names {
				tag, err := ParseTag(name)
				if !yield(tag, err) {
					return
				}
			}
			query = next
		}
	}
}

// tagPage returns a page and the query of the next one, empty for the last.
func (c *Client) tagPage(ctx context.Context, repository reference.Repository, query string) (names []string, next string, err error) {
	got, err := c.send(ctx, call{
		op: OpTags, repository: repository, method: http.MethodGet,
		scope: transport.PullScope, path: tagsList, query: query, limit: maxPageSize, instead: aTagList,
	})
	if err != nil {
		return nil, "", err
	}
	tags, listed := readTags(got.body)
	if !listed {
		return nil, "", &Error{Op: OpTags, Repository: repository, Err: &pageError{got.status, anotherKind, aTagList}}
	}
	if next = nextQuery(got.header); next == query {
		return nil, "", &Error{Op: OpTags, Repository: repository,
			Err: fmt.Errorf("%w: the next page is the same page", ErrUnexpected)}
	}
	return tags, next, nil
}

// readTags reads a page, and reports whether it is one. A page may name just the
// repository, where that has no tags.
func readTags(body []byte) (tags []string, listed bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return nil, false
	}
	names, listed := fields["tags"]
	if !listed {
		_, listed = fields["name"]
		return nil, listed
	}
	err := json.Unmarshal(names, &tags)
	return tags, err == nil
}

// nextQuery returns the query of the next page. The rest of the link is the
// request that was just sent, except behind proxies that rename hosts, change
// the scheme or add a prefix; there it is wrong.
func nextQuery(header http.Header) string {
	for _, value := range header.Values("Link") {
		found := nextLink.FindStringSubmatch(value)
		if found == nil {
			continue
		}
		if link, err := url.Parse(found[1]); err == nil {
			return link.RawQuery
		}
	}
	return ""
}
