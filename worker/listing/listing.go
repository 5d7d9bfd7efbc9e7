// Package listing lists the tags of repositories. The APIs of Quay, Docker Hub and Harbor
// return the digests of 100 tags at once; the OCI API, which all registries have, returns
// names only.
package listing

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// quayIO is the public Quay. Its OCI API and its own API have the same host
// (docs.quay.io/api).
const quayIO = "quay.io"

// Tag is a tag in a listing. Unknown fields are zero. All are hints: the tag may have moved since.
type Tag struct {
	Name      reference.Tag
	Digest    reference.Digest
	MediaType string     // of the tag's manifest
	Updated   time.Time  // when the tag was last pushed
	Size      int64      // bytes of all layers; shared layers count each time
	Platforms []Platform // without duplicates
}

// Platform is a platform of a tag.
type Platform struct {
	Name string // os/architecture[/variant]
	Size int64  // bytes of its layers
}

// firstRegistry is when Docker became public. No registry is older.
var firstRegistry = time.Date(2013, time.March, 15, 0, 0, 0, 0, time.UTC)

// believable returns a time of a listing, or zero if no tag can be so old.
func believable(t time.Time) time.Time {
	if t.Before(firstRegistry) {
		return time.Time{}
	}
	return t.UTC()
}

// WindowsOnly reports whether the tag's platforms are known and all of them are Windows.
func (t Tag) WindowsOnly() bool {
	return len(t.Platforms) > 0 && !slices.ContainsFunc(t.Platforms, func(p Platform) bool { return !strings.HasPrefix(p.Name, "windows/") })
}

// Options configure Listers.
type Options struct {
	// Registry sends all requests.
	Registry *registry.Client
	// QuayHosts are registries, host[:port], that run Quay, in addition to quay.io.
	QuayHosts []string
	// HarborHosts are registries, host[:port], that run Harbor 2.
	HarborHosts []string
	// Log gets one warning for each registry and reason if an API that lists digests cannot be
	// used. If nil, slog.Default() is used.
	Log *slog.Logger
}

// Listers are the listers of all registries. They are safe for concurrent use.
type Listers struct {
	hub, quay, harbor, oci *Lister
	quayHosts, harborHosts reference.Hosts
}

// New returns the listers. It sends no request.
func New(options Options) *Listers {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	warnings := &warnings{log: options.Log}
	return &Listers{
		hub:         &Lister{options.Registry, &hub, warnings},
		quay:        &Lister{options.Registry, &quay, warnings},
		harbor:      &Lister{options.Registry, &harbor, warnings},
		oci:         &Lister{options.Registry, nil, warnings},
		quayHosts:   reference.NewHosts(append([]string{quayIO}, options.QuayHosts...)),
		harborHosts: reference.NewHosts(options.HarborHosts),
	}
}

// For returns the lister of a source. It lists digests if the registry has an API for that.
func (l *Listers) For(repository reference.Repository) *Lister {
	switch host := repository.Registry(); {
	case host == reference.DockerHub:
		return l.hub
	case l.quayHosts.Has(host):
		return l.quay
	default:
		return l.oci
	}
}

// OCI returns a lister that uses the OCI API only. It works with all registries.
func (l *Listers) OCI() *Lister { return l.oci }

// Lister lists the tags of a repository.
type Lister struct {
	registry *registry.Client
	bulk     *bulkAPI // if nil, only the OCI API is used
	warnings *warnings
}

// NewestFirst reports whether tags with an Updated are listed in its order, the newest first. A tag
// without Updated ends that order: tags after it may be newer than tags before it.
func (l *Lister) NewestFirst() bool { return l.bulk != nil }

// Tags lists the tags page by page, without duplicates. After a *registry.TagError, which is about
// one invalid name, the listing goes on. Any other error is the last item and wraps a
// *registry.Error. If tags are pushed or deleted meanwhile, some may be missing.
//
// If the registry's own API limits requests or is in trouble, the listing ends with an error,
// because that may pass. After any other failure, the OCI API lists the remaining tags.
func (l *Lister) Tags(ctx context.Context, repository reference.Repository) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		seen := map[reference.Tag]bool{}
		if l.bulk == nil {
			l.listOCI(ctx, repository, seen, yield)
			return
		}
		for tag, err := range l.bulk.pages(ctx, l.registry, repository) {
			switch {
			case err == nil && seen[tag.Name]: // a push moves tags to the next page
			case err == nil:
				seen[tag.Name] = true
				if !yield(tag, nil) {
					return
				}
			case errors.As(err, new(*registry.TagError)):
				if !yield(Tag{}, err) {
					return
				}
			case l.bulk.ends(ctx, err, len(seen) > 0):
				yield(Tag{}, err)
				return
			default:
				l.warnings.warn(repository, err, len(seen) > 0)
				l.listOCI(ctx, repository, seen, yield)
				return
			}
		}
	}
}

// listOCI lists the tags that have not been seen, with the OCI API.
func (l *Lister) listOCI(ctx context.Context, repository reference.Repository, seen map[reference.Tag]bool, yield func(Tag, error) bool) {
	for name, err := range l.registry.Tags(ctx, repository) {
		if err == nil && seen[name] {
			continue
		}
		seen[name] = true
		if !yield(Tag{Name: name}, err) {
			return
		}
	}
}

// warnings logs each reason once, because a list has hundreds of repositories.
type warnings struct {
	log    *slog.Logger
	logged sync.Map // of reason
}

// reason is the reason why a bulk API cannot be used.
type reason struct {
	registry string
	status   int   // HTTP status; 0 if there was no answer
	cause    error // one of causes, or nil
	later    bool  // after the first page, so only repositories with many tags are concerned
}

// causes are failures of a bulk API other than a refusal.
var causes = []error{
	registry.ErrUnexpected, registry.ErrPage, registry.ErrPagination, registry.ErrTooLarge, registry.ErrPlainHTTP,
	registry.ErrCertificate, registry.ErrUnavailable,
}

func (w *warnings) warn(repository reference.Repository, err error, later bool) {
	found := reason{registry: repository.Registry(), status: statusOf(err), later: later}
	for _, cause := range causes {
		if found.cause == nil && errors.Is(err, cause) {
			found.cause = cause
		}
	}
	if _, known := w.logged.LoadOrStore(found, true); !known {
		w.log.Warn("the registry's own tag listing cannot be used; using the OCI API, which takes a request for each tag",
			"registry", repository.Registry(), "later_page", later, "cause", err)
	}
}
