package listing

import (
	"context"
	"iter"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

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
