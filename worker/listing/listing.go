// Package listing lists the tags of repositories. The APIs of Quay, Docker Hub and Harbor
// return the digests of 100 tags at once; the OCI API, which all registries have, returns
// names only.
package listing

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// quayIO is the public Quay. Its OCI API and its own API have the same host
// (docs.quay.io/api).
const quayIO = "quay.io"

// Tag is a tag as a listing shows it. Unknown fields are zero. All of them are hints: the
// tag may have moved since.
type Tag struct {
	Name      reference.Tag
	Digest    reference.Digest // if zero, a HEAD returns it
	MediaType string           // of the tag's manifest
	Updated   time.Time        // when the tag was last pushed
	Size      int64            // bytes of all layers; shared ones count each time
	Platforms []Platform       // each once
}

// Platform is a platform of a tag.
type Platform struct {
	Name string // os/architecture[/variant]
	Size int64  // bytes of its layers
}

// firstRegistry is when Docker, and so the first registry, was shown to the public. A time
// before it is a mistake.
var firstRegistry = time.Date(2013, time.March, 15, 0, 0, 0, 0, time.UTC)

// believable returns a time of a listing, or zero if no tag can be so old.
func believable(t time.Time) time.Time {
	if t.Before(firstRegistry) {
		return time.Time{}
	}
	return t.UTC()
}

// windows is the operating system that mirrors of Linux images leave out.
const windows = "windows/"

// WindowsOnly reports whether the tag's platforms are known and all of them are Windows.
func (t Tag) WindowsOnly() bool {
	for _, platform := range t.Platforms {
		if !strings.HasPrefix(platform.Name, windows) {
			return false
		}
	}
	return len(t.Platforms) > 0
}

// Options configure Listers.
type Options struct {
	// Registry is the client for all requests.
	Registry *registry.Client
	// QuayHosts are registries, host[:port], that run Quay, in addition to quay.io.
	QuayHosts []string
	// HarborHosts are registries, host[:port], that run Harbor 2.
	HarborHosts []string
	// Log gets one warning for each registry and reason if an API other than OCI's cannot be
	// used; if nil, it is slog.Default().
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

// For returns the lister that knows most about a repository.
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
	bulk     *bulkAPI // nil: the OCI API only
	warnings *warnings
}

// NewestFirst reports whether tags with an Updated are listed in its order, the newest
// first. A tag without one ends that order: tags after it may be newer than tags before it.
func (l *Lister) NewestFirst() bool { return l.bulk != nil }

// Tags lists the tags page by page, each name once. A *registry.TagError is about one
// invalid name, and the listing goes on; any other error is the last item and wraps a
// *registry.Error. If tags are pushed or deleted meanwhile, some may be missing.
//
// If the registry's own API limits requests or is in trouble, the listing ends with an
// error, because that passes. After any other failure, the OCI API lists the other tags.
func (l *Lister) Tags(ctx context.Context, repository reference.Repository) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		seen := names{}
		if l.bulk == nil {
			l.listOCI(ctx, repository, seen, yield)
			return
		}
		for tag, err := range l.bulk.pages(ctx, l.registry, repository) {
			switch {
			case err == nil:
				if seen.add(tag.Name) && !yield(tag, nil) {
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
func (l *Lister) listOCI(ctx context.Context, repository reference.Repository, seen names, yield func(Tag, error) bool) {
	for name, err := range l.registry.Tags(ctx, repository) {
		if err == nil && !seen.add(name) {
			continue // a push moves tags to the next page
		}
		if !yield(Tag{Name: name}, err) {
			return
		}
	}
}

// names are the names seen in a listing.
type names map[reference.Tag]struct{}

// add reports whether the name is new.
func (n names) add(name reference.Tag) bool {
	_, seen := n[name]
	n[name] = struct{}{}
	return !seen
}

// warnings logs each reason for not using a bulk API once: a list has hundreds of
// repositories.
type warnings struct {
	log    *slog.Logger
	logged sync.Map // of reason
}

// reason is why a bulk API cannot be used. Reasons that come with a later page concern
// only repositories with many tags.
type reason struct {
	registry string
	status   int   // of an answer
	cause    error // one of causes, if there was no answer
	later    bool
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
