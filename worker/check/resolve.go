package check

import (
	"context"
	"errors"
	"net/http"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// resolve returns the current tags and digests of an entry. If the look-up of a tag fails and the
// failure may pass, it looks up the tag again by name. The error concerns the whole entry.
func (f *forecast) resolve(ctx context.Context, r message.Repository) (resolve.Result, error) {
	var found resolve.Result
	var missed []resolve.Missed
	listed, next := false, r
	known, err := f.comparer.Known(ctx, r)
	if err != nil {
		return resolve.Result{}, err
	}
	err = f.insist(ctx, r.Source, func() error {
		got, err := f.checker.Resolver.Resolve(ctx, next, known)
		if err != nil {
			return err
		}
		if !listed {
			listed, found.Listed, found.Invalid, found.Companions = true, got.Listed, got.Invalid, got.Companions
			found.Unselected, found.Whole, found.Count = got.Unselected, got.Whole, got.Count
		}
		found.Images = append(found.Images, got.Images...)
		found.Skipped = append(found.Skipped, got.Skipped...)
		missed = nil
		var again []string
		for _, m := range got.Missed {
			if !mayPass(m.Err) {
				found.Missed = append(found.Missed, m)
				continue
			}
			missed, again = append(missed, m), append(again, m.Tag.String())
		}
		if len(missed) == 0 {
			return nil
		}
		next = message.Repository{Source: r.Source, Selection: &selection.Selection{List: again}}
		return missed[0].Err
	})
	if !listed {
		return resolve.Result{}, err
	}
	found.Missed = append(found.Missed, missed...)
	if !found.Whole {
		return found, nil
	}
	last, err := f.checker.Notes.Counted(ctx, r.Source)
	if few := compare.Few(r, found, last); few != nil {
		found.Invalid, found.Unselected = few, ""
	}
	return found, err
}

const (
	noRepository = "the registry has no such repository, or does not show it with these credentials (404)"
	noTag        = "the registry has no such tag (404 for HEAD; a check sends no GET, which would be a pull)"
	deniesTag    = "the registry lists the tag, and does not have it (404 for HEAD; a check sends no GET, which would be a pull)"
	noDigest     = "the registry does not answer HEAD with a digest: "
)

// explain returns why a tag or the repository of an entry could not be resolved. It sends a
// request to find out which of them is missing, because that is mostly a mistake in the list.
func (f *forecast) explain(ctx context.Context, r message.Repository, err error) string {
	asked, _ := errors.AsType[*registry.Error](err)
	switch {
	case errors.Is(err, errPull) && errors.Is(err, registry.ErrHeadDenied) && compare.IsOpen(r):
		return deniesTag
	case errors.Is(err, errPull) && errors.Is(err, registry.ErrHeadDenied):
		if f.isMissing(ctx, r.Source) {
			return noRepository
		}
		return noTag
	case errors.Is(err, errPull):
		return noDigest + errPull.Error()
	case asked != nil && asked.Op == registry.OpTags && asked.Status == http.StatusNotFound && asked.Repository == r.Source:
		return noRepository
	}
	return outcome.Reason(err)
}

// isMissing reports whether a registry answers that a repository does not exist.
func (f *forecast) isMissing(ctx context.Context, repository reference.Repository) bool {
	for _, err := range f.checker.Mirror.Registry.Tags(ctx, repository) {
		return errors.Is(err, registry.ErrNotFound)
	}
	return false
}
