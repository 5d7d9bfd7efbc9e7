package listing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// tagsPerPage is the maximum of tags on a page of Quay and Docker Hub, and of artifacts on a
	// page of Harbor.
	tagsPerPage = 100

	// maxItems limits the tags on a page, and the images of a tag.
	maxItems = 10 * tagsPerPage
)

// bulkAPI is an API that lists many tags at once with their digests. The latest push comes first.
type bulkAPI struct {
	// target returns the URL of a page. Pages are counted from 1.
	target func(repository reference.Repository, page int) url.URL
	// read parses a page. Its error is the reason why the body is not a page of this API.
	read func(body []byte) (page, error)
	// linked is set if a Link header, rather than the body, shows whether another page follows.
	// Such an API takes the registry's user and password.
	linked bool
	// elsewhere is set if the API has another host than the registry. A firewall may block one
	// of the two.
	elsewhere bool
}

// page is a page of tags.
type page struct {
	tags    []found
	items   int    // number of tags, including expired ones
	more    bool   // another page may follow
	content string // the body without the page number
}

// found is a tag on a page.
type found struct {
	Tag
	name string // as the registry sent it
}

// errNameless is returned for a page that has a tag without a name.
var errNameless = errors.New("a tag without a name in the answer")

// readEntries parses the entries of a page; it returns nil if the page has no list. Of an entry
// with unexpected fields, it uses only the name: a HEAD returns the digest.
func readEntries[T any](list json.RawMessage, named func(name string) T) ([]T, error) {
	entries, err := registry.ReadList[T](list, maxItems)
	if err == nil {
		return entries, nil
	}
	// An entry is unexpected, or the list.
	raw, err := registry.ReadList[json.RawMessage](list, maxItems)
	if err != nil {
		return nil, err
	}
	entries = make([]T, len(raw))
	for i, text := range raw {
		if json.Unmarshal(text, &entries[i]) == nil {
			continue
		}
		var only struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(text, &only); err != nil {
			return nil, err
		}
		entries[i] = named(only.Name)
	}
	return entries, nil
}

// pages lists the tags of all pages. An error that is not a *registry.TagError is the last
// item.
func (a *bulkAPI) pages(ctx context.Context, client *registry.Client, repository reference.Repository) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		var pages registry.Pages
		for n := 1; ; n++ {
			listed, err := a.page(ctx, client, repository, n, &pages)
			if err != nil {
				yield(Tag{}, err)
				return
			}
			for _, t := range listed.tags {
				if t.Name, err = registry.ParseTag(t.name); !yield(t.Tag, err) {
					return
				}
			}
			if !listed.more {
				return
			}
		}
	}
}

// page returns page n. Its error wraps a *registry.Error.
func (a *bulkAPI) page(ctx context.Context, client *registry.Client, repository reference.Repository, n int, pages *registry.Pages) (page, error) {
	var listed page
	var body []byte
	var linksOn bool
	err := pages.At("") // the position always differs
	if err == nil {
		body, linksOn, err = client.GetPage(ctx, registry.OpTags, repository, a.target(repository, n), a.linked)
	}
	if err == nil {
		if listed, err = a.read(body); err != nil {
			err = fmt.Errorf("%w: %s", registry.ErrUnexpected, err.Error())
		}
		listed.more = listed.more || linksOn
	}
	if err == nil {
		err = pages.Has(listed.items)
	}
	if err == nil && listed.items > 0 {
		err = pages.Holds(listed.content)
	}
	if err != nil && !errors.As(err, new(*registry.Error)) {
		err = &registry.Error{Op: registry.OpTags, Repository: repository, Err: err}
	}
	return listed, err
}

// unsent are failures that any request to the registry would have.
var unsent = []error{registry.ErrBlocked, registry.ErrLimited, budget.ErrBroker, context.Canceled}

// final are failures that the OCI API would have, too.
var final = append([]error{registry.ErrTooMany}, unsent...)

// ends reports whether a failure ends the listing. After any other failure, the OCI API is used.
// later is set if tags have been listed already.
func (a *bulkAPI) ends(ctx context.Context, err error, later bool) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	if ctx.Err() != nil || slices.ContainsFunc(final, is) || isSpent(err) {
		return true
	}
	return is(registry.ErrUnavailable) && (later || !a.elsewhere || statusOf(err) != 0)
}

// isSpent reports whether a request was not sent because of a budget or a closed registry.
func isSpent(err error) bool { return errors.As(err, new(*budget.SpentError)) }

// statusOf returns the HTTP status of a failure, 0 if there was no answer.
func statusOf(err error) int {
	if failed, ok := errors.AsType[*registry.Error](err); ok {
		return failed.Status
	}
	return 0
}
