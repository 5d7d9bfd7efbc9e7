package registry

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"

	"github.com/osism/skopeo-worker/shared/reference"
)

// catalogScope is the scope to list repositories
// (distribution.github.io/distribution/spec/auth/scope).
const catalogScope = "registry:catalog:*"

// Catalog lists the names of a registry's repositories, in its order, as the registry sends
// them: they may contain anything. Many registries list only those that the login may see, or
// do not list them at all. An error is the last item; it is as that of Tags.
func (c *Client) Catalog(ctx context.Context, address reference.Repository) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var pages Pages
		query := "" // no n: a registry refuses one that is larger than its maxentries
		for first := true; first || query != ""; first = false {
			names, next, err := c.catalogPage(ctx, address, query, &pages)
			if err != nil {
				yield("", err)
				return
			}
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
			}
			query = next
		}
	}
}

// catalogPage returns a page and the query of the next one, which is "" after the last page.
func (c *Client) catalogPage(ctx context.Context, address reference.Repository, query string, pages *Pages) (names []string, next string, err error) {
	asked := &call{
		op: OpCatalog, repository: address, method: http.MethodGet,
		scope: catalogScope, path: catalog, query: query, limit: maxPageSize, instead: aCatalog,
	}
	return c.namePage(ctx, asked, pages, readCatalog)
}

func readCatalog(got answer) ([]string, error) {
	var page struct {
		Repositories json.RawMessage `json:"repositories"`
	}
	err := json.Unmarshal(got.body, &page)
	if err == nil && page.Repositories != nil {
		var names []string
		if names, err = ReadList[string](page.Repositories, maxTags); err == nil || errors.Is(err, ErrTooMany) {
			return names, err
		}
	}
	return nil, &pageError{got.status, anotherKind, aCatalog}
}
