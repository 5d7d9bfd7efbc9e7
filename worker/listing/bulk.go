package listing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/url"
	"slices"
	"sync"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// tagsPerPage is the most that both quay.io and Docker Hub give in an answer.
const tagsPerPage = 100

// bulk lists with an API that tells of many tags at once, and hands over to the
// OCI API where that one does not answer.
type bulk struct {
	oci *OCI
	log *slog.Logger

	told sync.Map // of complaint
}

// complaint is what is said once: the cause, and whether it came with the first
// page or with a later one, which concerns repositories of many tags only.
type complaint struct {
	registry string
	status   int   // of an answer
	cause    error // of causes, without one
	later    bool
}

// causes are why an API cannot be used that did not refuse us.
var causes = []error{
	registry.ErrUnexpected, registry.ErrPage, registry.ErrPagination, registry.ErrTooLarge, registry.ErrPlainHTTP,
	registry.ErrCertificate, registry.ErrUnavailable,
}

// errNameless is why an answer is none: names are what a listing is for.
var errNameless = errors.New("a tag without a name in the answer")

// page is one answer.
type page struct {
	tags  []found
	items int  // tags, those that are left out included
	more  bool // there is another page, or the answer does not tell
	// content is the answer without the number of its page.
	content string
}

// maxItems is how many tags an answer may have, and images a tag.
const maxItems = 10 * tagsPerPage

// readEntries reads the entries of a page. Of one that can't be read but for its name, a
// HEAD finds out the rest. It is nil where there is no list.
func readEntries[T any](list json.RawMessage, named func(name string) T) ([]T, error) {
	raw, err := registry.ReadList[json.RawMessage](list, maxItems)
	if err != nil || raw == nil {
		return nil, err
	}
	entries := make([]T, len(raw))
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

// found is a tag on a page, with the name as it was sent.
type found struct {
	Tag
	name string
}

// source is one bulk API.
type source struct {
	// target is the URL of a page, counted from 1.
	target func(repository reference.Repository, page int) url.URL
	// read reads an answer. Its error says why it is none of this API.
	read func(body []byte) (page, error)
	// notFoundEnds says that a page past the end is answered with 404.
	notFoundEnds bool
	// elsewhere says that the API has another host than the registry: one may be
	// closed off where the other is not.
	elsewhere bool
}

// tags lists with a source. Being limited and a server in trouble end the
// listing, because they pass. After any other failure the OCI API has the last
// word on the repository.
func (b *bulk) tags(ctx context.Context, repository reference.Repository, from source) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		seen := names{}
		for tag, err := range b.pages(ctx, repository, from) {
			invalid := (*registry.TagError)(nil)
			switch {
			case err == nil:
				if seen.add(tag.Name) && !yield(tag, nil) {
					return
				}
			case errors.As(err, &invalid):
				if !yield(Tag{}, err) {
					return
				}
			case from.ends(ctx, err, len(seen) > 0):
				yield(Tag{}, err)
				return
			default:
				b.complain(repository, err, len(seen) > 0)
				b.oci.rest(ctx, repository, seen)(yield)
				return
			}
		}
	}
}

// final are the failures after which the OCI API would fail, too.
var final = []error{registry.ErrBlocked, registry.ErrLimited, registry.ErrTooMany, throttle.ErrBroker, context.Canceled}

// ends reports whether a failure ends the listing. After any other, the OCI API is used.
func (s source) ends(ctx context.Context, err error, later bool) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	if ctx.Err() != nil || slices.ContainsFunc(final, is) || errors.As(err, new(*budget.SpentError)) {
		return true
	}
	return is(registry.ErrUnavailable) && (later || !s.elsewhere || statusOf(err) != 0)
}

// turn reads the next page. Its error wraps one of the package registry.
func (s source) turn(body []byte, turned *registry.Pages) (page, error) {
	found, err := s.read(body)
	if err != nil {
		return page{}, fmt.Errorf("%w: %s", registry.ErrUnexpected, err.Error())
	}
	if err := turned.Has(found.items); err != nil {
		return page{}, err
	}
	if found.items == 0 {
		return found, nil
	}
	return found, turned.Holds(found.content)
}

// pages yields the tags of all pages as they are, an error last.
func (b *bulk) pages(ctx context.Context, repository reference.Repository, from source) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		var turned registry.Pages
		for n := 1; ; n++ {
			if err := turned.At(""); err != nil {
				yield(Tag{}, named(repository, err))
				return
			}
			body, err := b.oci.Registry.GetTagPage(ctx, repository, from.target(repository, n))
			if n > 1 && from.notFoundEnds && errors.Is(err, registry.ErrNotFound) {
				return // tags were deleted since the page before announced this one
			}
			if err != nil {
				yield(Tag{}, err)
				return
			}
			found, err := from.turn(body, &turned)
			if err != nil {
				yield(Tag{}, named(repository, err))
				return
			}
			for _, listed := range found.tags {
				var err error
				if listed.Name, err = registry.ParseTag(listed.name); !yield(listed.Tag, err) {
					return
				}
			}
			if !found.more {
				return
			}
		}
	}
}

// complain says that a bulk API cannot be used, once for each cause: a list has
// hundreds of repositories.
func (b *bulk) complain(repository reference.Repository, err error, later bool) {
	said := complaint{registry: repository.Registry(), status: statusOf(err), later: later}
	if i := slices.IndexFunc(causes, func(cause error) bool { return errors.Is(err, cause) }); i >= 0 {
		said.cause = causes[i]
	}
	if _, known := b.told.LoadOrStore(said, true); known {
		return
	}
	b.log.Warn("the bulk tag listing cannot be used; listing with the OCI API, which takes a request a tag",
		"registry", repository.Registry(), "later_page", later, "cause", err)
}

// statusOf is 0 where there was no answer.
func statusOf(err error) int {
	if failed := (*registry.Error)(nil); errors.As(err, &failed) {
		return failed.Status
	}
	return 0
}

// named is an error about a repository as a whole.
func named(repository reference.Repository, err error) *registry.Error {
	return &registry.Error{Op: registry.OpTags, Repository: repository, Err: err}
}
