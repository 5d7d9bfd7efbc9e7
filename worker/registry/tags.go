package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// tagsPerPage is the most that all registries accept (ECR refuses more). Many send shorter
	// pages.
	tagsPerPage = 1000

	// maxPageSize limits a page. Some registries ignore tagsPerPage and send all tags; maxTags of
	// the greatest length are 33 MB.
	maxPageSize = 40 << 20
)

// Tags lists a repository's tags in the registry's order. It requests each page when it is needed. A
// tag that is pushed meanwhile may be listed twice or not at all.
//
// After a *TagError, which is about one name, the listing goes on. Any other error is the last item:
// ErrPagination if the last page cannot be reached, ErrTooMany if the list is too long, ErrNotFound if
// the repository does not exist. A repository may have no tags.
func (c *Client) Tags(ctx context.Context, repository reference.Repository) iter.Seq2[reference.Tag, error] {
	return func(yield func(reference.Tag, error) bool) {
		var pages Pages
		query := url.Values{"n": {strconv.Itoa(tagsPerPage)}}.Encode()
		for query != "" {
			names, next, err := c.tagPage(ctx, repository, query, &pages)
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

// tagPage returns a page and the query of the next one, which is "" after the last page.
func (c *Client) tagPage(ctx context.Context, repository reference.Repository, query string, pages *Pages) (names []string, next string, err error) {
	asked := &call{
		op: OpTags, repository: repository, method: http.MethodGet,
		scope: transport.PullScope, path: tagsList, query: query, limit: maxPageSize, instead: aTagList,
	}
	return c.namePage(ctx, asked, pages, readTags)
}

// namePage returns the names on a page of a list, and the query of the next one.
func (c *Client) namePage(ctx context.Context, asked *call, pages *Pages, read func(answer) ([]string, error)) (names []string, next string, err error) {
	var got answer
	if err = pages.At(asked.query); err == nil {
		got, err = c.send(ctx, asked)
	}
	if err == nil {
		names, err = read(got)
	}
	if err == nil {
		err = pages.Has(len(names))
	}
	if err == nil {
		err = pages.Holds(names...)
	}
	if err == nil {
		next, err = asked.nextQuery(got)
	}
	return names, next, about(err, asked.op, asked.repository, nil)
}

// readTags parses a page. If a repository has no tags, the page may have only its name.
func readTags(got answer) ([]string, error) {
	another := &pageError{got.status, anotherKind, aTagList}
	var page struct {
		Name any      `json:"name"`
		Tags tagNames `json:"tags"`
	}
	err := json.Unmarshal(got.body, &page)
	switch {
	case errors.Is(err, ErrTooMany):
		return nil, err
	case err != nil, !page.Tags.present && page.Name == nil:
		return nil, another
	}
	return page.Tags.names, nil
}

// tagNames is the list of names on a page.
type tagNames struct {
	names   []string
	present bool
}

func (t *tagNames) UnmarshalJSON(data []byte) (err error) {
	t.present = true
	t.names, err = ReadList[string](data, maxTags)
	return err
}

// TagError is an invalid name among the tags of a repository.
type TagError struct {
	Name string // as the registry sent it; it may contain anything
	Err  error  // wraps reference.ErrInvalidTag, and quotes the name
}

func (e *TagError) Error() string { return e.Err.Error() }
func (e *TagError) Unwrap() error { return e.Err }

// ParseTag parses a name that a registry lists as a tag. Its error is a *TagError.
func ParseTag(name string) (reference.Tag, error) {
	tag, err := reference.ParseTag(name)
	if err != nil {
		return reference.Tag{}, &TagError{Name: name, Err: err}
	}
	return tag, nil
}

// GetPage returns a page of tags or repositories from an API other than OCI's, of at most 16 MiB.
// No Guard watches the request. The error is an *Error with the given Op.
//
// If linked is false, the page is a JSON object. The API may have another host than the registry,
// so the request carries no credentials. If linked is true, the page is a JSON array from an API of
// the registry's own host that takes its user and password; more reports whether the answer links
// to another page. The error wraps ErrPage if the answer is not such JSON.
func (c *Client) GetPage(ctx context.Context, op string, repository reference.Repository, target url.URL, linked bool) (body []byte, more bool, err error) {
	get := &call{op: op, repository: repository, url: &target, instead: aTagPage}
	if linked {
		return c.getLinkedPage(ctx, get)
	}
	at, err := c.locateAPI(repository, target.Host)
	if err != nil {
		return nil, false, get.fail(err)
	}
	got, err := c.getOpenly(ctx, at, get, login{stage: withheld})
	if err == nil {
		return got.body, false, nil
	}
	named := get.fail(err)
	if target.Host != repository.Registry() {
		named.Err = fmt.Errorf("%s: %w", target.Host, named.Err)
	}
	return nil, false, named
}

func (c *Client) getLinkedPage(ctx context.Context, get *call) (body []byte, more bool, err error) {
	get.instead = aTagArray
	at, known, err := c.ownAPI(ctx, get)
	var got answer
	if err == nil {
		got, err = c.getOpenly(ctx, at, get, known)
	}
	if err == nil {
		more, err = got.linksOn()
	}
	if err != nil {
		return nil, false, get.fail(err)
	}
	return got.body, more, nil
}

// ownAPI sets the host of a call to an API of the registry's own host, and returns the login for it.
func (c *Client) ownAPI(ctx context.Context, call *call) (location, login, error) {
	at, err := c.locate(call.repository)
	if err != nil {
		return location{}, login{}, err
	}
	call.url.Host = at.registry.RegistryStr()
	known, err := c.sessions.credential(ctx, handshake{location: at})
	return at, login{known, presented}, err
}

// linksOn reports whether an answer links to a next page, with any URL. The error is
// ErrPagination.
func (a answer) linksOn() (bool, error) {
	links, err := parseLinks(a.header)
	for _, l := range links {
		if next, err := l.next(); next || err != nil {
			return next, err
		}
	}
	return false, err
}

// getOpenly gets a page without a session. It sends the user and password of the login, if any. If an
// insecure host does not answer over HTTPS, it uses plain HTTP; if that works, also for the next hour.
func (c *Client) getOpenly(ctx context.Context, at location, get *call, as login) (answer, error) {
	get.method, get.limit = http.MethodGet, maxManifestSize
	return c.sendOpenly(ctx, at, get, as)
}

// sendOpenly sends a call as getOpenly does, with any method.
func (c *Client) sendOpenly(ctx context.Context, at location, get *call, as login) (answer, error) {
	get.accept, get.url.Scheme = "application/json", "https"
	send := func(scheme string) (answer, error) {
		sender := &authorized{network: c.sessions.network, host: get.url.Host, scheme: scheme}
		if as.credential.Username != "" && as.credential.Password != "" {
			sender.header = basic(as.credential)
		}
		return exchange(ctx, &session{Client: http.Client{Transport: sender}, login: as}, at, get)
	}
	if c.plainHTTP.isKnown(get.url.Host) {
		return send("http")
	}
	got, err := send("https")
	if !at.insecure || !isUnanswered(err) {
		return got, err
	}
	byHTTP, failed := send("http")
	if isUnanswered(failed) {
		return got, err
	}
	c.plainHTTP.note(get.url.Host)
	return byHTTP, failed
}

// isUnanswered reports whether exchange has failed without an answer.
func isUnanswered(err error) bool {
	failed, ok := errors.AsType[*failure](err)
	return ok && failed.status == 0
}

// catalogScope is the scope to list repositories
// (distribution.github.io/distribution/spec/auth/scope).
const catalogScope = "registry:catalog:*"

// Catalog lists the names of a registry's repositories as the registry sends them: they may contain
// anything. Many registries list only the repositories that the login may see, or none. An error is the
// last item, as with Tags.
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
