package check

import (
	"context"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// image is a tag of the source.
type image struct {
	source    string        // as the list would name it
	tag       reference.Tag // at the destination
	digest    reference.Digest
	mediaType string // empty where it is not known
	listed    resolve.Listed
	wanted    platform.Wanted
	referrers bool   // what refers to it is wanted, too
	selection string // the same for the same wanted
	entry     message.Repository
	// companions are those that the entry's listing has shown; nil where there was none.
	companions resolve.Companions
}

// resolved is what an entry of the list means today.
type resolved struct {
	images  []*image
	skipped int
	failed  []Failed
}

// resolve asks the source.
func (t *task) resolve(ctx context.Context, r message.Repository) resolved {
	found, err := t.ask(ctx, r)
	if err != nil {
		return resolved{failed: []Failed{failed(failure.Source(r, r.Tag), err)}}
	}
	var chosen selection.Selection
	if r.Selection != nil {
		chosen = *r.Selection
	}
	// Without a pull, no tag is known to have vanished: see ErrPull.
	result := resolved{skipped: found.Skipped}
	if found.Invalid != nil {
		result.failed = append(result.failed, failed(r.Source.String(), found.Invalid))
	}
	for _, m := range found.Missed {
		result.failed = append(result.failed, failed(failure.Source(r, m.Tag), m.Err))
	}
	contents := chosen.Contents()
	hash := contents.Hash()
	for _, i := range found.Images {
		result.images = append(result.images, &image{
			source:    failure.Source(r, i.Tag),
			tag:       reference.Reference{Tag: i.Tag, Digest: i.Digest}.DestinationTag(),
			digest:    i.Digest,
			mediaType: i.MediaType,
			listed:    found.Listed[i.Tag],
			wanted:    platform.Wanted{Platforms: contents.Platforms, WithoutAttestations: contents.WithoutAttestations},
			referrers: chosen.Referrers,
			selection: hash,
			entry:     r, companions: found.Companions,
		})
	}
	return result
}

// ask resolves an entry. Tags whose digest was missed and may be had the next time
// are asked for again by name; the error is about the entry as a whole.
func (t *task) ask(ctx context.Context, r message.Repository) (resolve.Result, error) {
	var found resolve.Result
	var missed []resolve.Missed
	listed, next := false, r
	err := t.insist(ctx, r.Source, func() error {
		got, err := t.Resolver.Resolve(ctx, next)
		if err != nil {
			return err
		}
		if !listed {
			listed, found.Listed, found.Invalid, found.Companions = true, got.Listed, got.Invalid, got.Companions
		}
		found.Images = append(found.Images, got.Images...)
		found.Skipped += got.Skipped
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
	return found, nil
}

func failed(name string, err error) Failed { return Failed{Image: name, Reason: outcome.Reason(err)} }
