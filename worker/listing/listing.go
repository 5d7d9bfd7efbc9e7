// Package listing lists what tags a repository has, with what the upstream
// tells about them. quay.io and Docker Hub tell the digests of 100 tags in one
// answer; every other registry tells names only.
package listing

import (
	"context"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Tag is a tag as a listing shows it. Fields the upstream does not tell are
// zero. All of it is a hint: the tag may have moved since.
type Tag struct {
	Name      reference.Tag
	Digest    reference.Digest // of what the tag names; where it is empty, a HEAD tells it
	MediaType string           // of what the tag names
	Updated   time.Time        // when the tag was last pushed
	Size      int64            // bytes of all layers below it; of shared ones, each time
	Platforms []Platform       // each once; empty = not told
}

// Platform is one of those below a tag.
type Platform struct {
	Name string // os/architecture[/variant]
	Size int64  // bytes of its layers
}

// windows is the operating system that mirrors of Linux images leave out.
const windows = "windows/"

// WindowsOnly says whether the upstream tells of platforms, all of them Windows.
func (t Tag) WindowsOnly() bool {
	for _, platform := range t.Platforms {
		if !strings.HasPrefix(platform.Name, windows) {
			return false
		}
	}
	return len(t.Platforms) > 0
}

// Lister lists the tags of a repository.
type Lister interface {
	// Tags yields the tags page by page, each name once; stopping the iteration
	// stops the listing. A *registry.TagError is about one name that no tag can have,
	// and the listing goes on; any other error is the last item, and is a
	// *registry.Error. A tag that is pushed or deleted meanwhile can keep itself or
	// another one out until the next listing.
	Tags(ctx context.Context, repository reference.Repository) iter.Seq2[Tag, error]

	// NewestFirst reports whether the tags that have an Updated come in its
	// order, the most recent first. One without ends that order: what comes after
	// it may be more recent than what came before.
	NewestFirst() bool
}

// names are the names seen so far in one listing. They are all it remembers.
type names map[reference.Tag]struct{}

// add is false for a name that was seen before.
func (n names) add(name reference.Tag) bool {
	if _, seen := n[name]; seen {
		return false
	}
	n[name] = struct{}{}
	return true
}

// OCI lists with what every registry has, tags/list: names only, in the
// registry's order, which is lexical by the OCI distribution specification.
type OCI struct {
	Registry *registry.Client
}

// Tags implements Lister. A push in the middle of a listing can show a tag on
// two pages; it is yielded once.
func (o *OCI) Tags(ctx context.Context, repository reference.Repository) iter.Seq2[Tag, error] {
	return o.rest(ctx, repository, names{})
}

// NewestFirst implements Lister.
func (o *OCI) NewestFirst() bool { return false }

// rest yields the tags that have not been seen.
func (o *OCI) rest(ctx context.Context, repository reference.Repository, seen names) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		for name, err := range o.Registry.Tags(ctx, repository) {
			if err != nil {
				if !yield(Tag{}, err) {
					return
				}
				continue // it is the last item, or about one name
			}
			if seen.add(name) && !yield(Tag{Name: name}, nil) {
				return
			}
		}
	}
}

// quayIO is the public Quay. Its OCI and its own API share the host
// (docs.quay.io/api).
const quayIO = "quay.io"

// Options say how to list.
type Options struct {
	// Registry speaks the OCI API: to registries that have nothing else, and
	// where another API does not answer.
	Registry *registry.Client
	// QuayHosts are the registries besides quay.io, host[:port], that are Quay.
	QuayHosts []string
	// Log is told once for each registry and cause that its bulk listing cannot
	// be used; nil is slog.Default().
	Log *slog.Logger
}

// Listers are the listers of all registries. It is safe for concurrent use.
type Listers struct {
	oci       *OCI
	quay      *Quay
	hub       *Hub
	quayHosts reference.Hosts
}

// New returns the listers. It sends no request.
func New(options Options) *Listers {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	shared := &bulk{oci: &OCI{options.Registry}, log: options.Log}
	return &Listers{
		oci:       shared.oci,
		quay:      &Quay{shared},
		hub:       &Hub{shared},
		quayHosts: reference.NewHosts(append([]string{quayIO}, options.QuayHosts...)),
	}
}

// For returns the lister that tells most about a repository: Hub for docker.io,
// Quay for quay.io and the QuayHosts, else OCI.
func (s *Listers) For(repository reference.Repository) Lister {
	switch host := repository.Registry(); {
	case host == reference.DockerHub:
		return s.hub
	case s.quayHosts.Has(host):
		return s.quay
	default:
		return s.oci
	}
}

// OCI returns the lister that every registry has, whatever else it offers.
func (s *Listers) OCI() Lister { return s.oci }
