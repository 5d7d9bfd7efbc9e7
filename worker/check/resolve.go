package check

import (
	"context"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// resolve returns the tags and digests of an entry today. If the digest of a tag was missed and may
// be found on another try, it is looked up again by name. The error is about the entry as a whole.
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
	few, err := f.comparer.Few(ctx, r, found)
	if few != nil {
		found.Invalid, found.Unselected = few, ""
	}
	return found, err
}
