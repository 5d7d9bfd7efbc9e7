package check

import (
	"context"
	"errors"
	"net/http"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	noRepository = "the registry has no such repository, or does not show it with these credentials (404)"
	noTag        = "the registry has no such tag (404 for HEAD; a check sends no GET, which would be a pull)"
	deniesTag    = "the registry lists the tag, and does not have it (404 for HEAD; a check sends no GET, which would be a pull)"
	noDigest     = "the registry does not answer HEAD with a digest: "
)

// explain returns why something of the source of an entry could not be checked. A missing
// repository or tag is mostly a mistake in the list, so it is worth a request to find out which.
func (f *forecast) explain(ctx context.Context, r message.Repository, err error) string {
	asked := (*registry.Error)(nil)
	switch {
	case errors.Is(err, ErrPull) && errors.Is(err, registry.ErrHeadDenied) && compare.IsOpen(r):
		return deniesTag
	case errors.Is(err, ErrPull) && errors.Is(err, registry.ErrHeadDenied):
		if f.hasNone(ctx, r.Source) {
			return noRepository
		}
		return noTag
	case errors.Is(err, ErrPull):
		return noDigest + ErrPull.Error()
	case errors.As(err, &asked) && asked.Op == registry.OpTags && asked.Status == http.StatusNotFound && asked.Repository == r.Source:
		return noRepository
	}
	return outcome.Reason(err)
}

// hasNone reports whether a registry answers that it does not have a repository.
func (f *forecast) hasNone(ctx context.Context, repository reference.Repository) bool {
	for _, err := range f.checker.Mirror.Registry.Tags(ctx, repository) {
		return errors.Is(err, registry.ErrNotFound)
	}
	return false
}
