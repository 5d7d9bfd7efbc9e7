package check

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
)

// there is what the destination has under a tag.
type there struct {
	digest  reference.Digest // zero: no such tag
	current bool             // it is what the source has
	err     error
}

// wanting is a digest with what of it is wanted.
type wanting struct {
	digest    reference.Digest
	selection string
}

// compare asks the destination for the images of a row and counts them. It returns them by
// their digests.
func (t *task) compare(ctx context.Context, row *Row, images []*image) []*job {
	have, empty := t.look(ctx, row.Destination, images)
	if err := have[0].err; err != nil && ofAll(err) {
		row.Failed = append(row.Failed, failed(row.Destination.String(), err))
		return nil
	}
	var jobs []*job
	index := map[wanting]*job{}
	for i, image := range images {
		if err := have[i].err; err != nil {
			row.Failed = append(row.Failed, failed(image.source, err))
			continue
		}
		key := wanting{image.digest, image.selection}
		j := index[key]
		if j == nil {
			j = &job{image: image}
			index[key] = j
			jobs = append(jobs, j)
		}
		if have[i].current {
			row.Unchanged++
			j.at = have[i].digest
			continue
		}
		j.images = append(j.images, image)
	}
	t.judgeAll(ctx, row.Destination, jobs, empty)
	for _, j := range jobs {
		row.count(j)
	}
	t.sample(row.Repository, jobs)
	t.refer(ctx, row, jobs)
	return jobs
}

// look asks the destination for each tag, the first one alone: where nothing is
// there at all, or nothing can be asked, the others need not be asked for.
func (t *task) look(ctx context.Context, destination reference.Repository, images []*image) (have []there, empty bool) {
	have = make([]there, len(images))
	ask := func(i int) {
		image := images[i]
		have[i].err = t.insist(ctx, destination, t.slot(func() (err error) {
			have[i].current, have[i].digest, err = t.Mirror.Current(ctx, mirror.Target{Repository: destination, Tag: image.tag, Referrers: image.referrers}, image.digest, image.wanted)
			return err
		}))
	}
	ask(0)
	if err := have[0].err; err != nil && ofAll(err) {
		return have, false
	}
	if have[0].err == nil && have[0].digest.IsZero() {
		err := t.insist(ctx, destination, t.slot(func() (err error) {
			empty, err = t.Mirror.Empty(ctx, destination)
			return err
		}))
		if err == nil && empty {
			return have, true
		}
	}
	var group errgroup.Group
	group.SetLimit(requests)
	for i := 1; i < len(images); i++ {
		group.Go(func() error {
			ask(i)
			return nil
		})
	}
	_ = group.Wait() // the errors are in have
	return have, false
}

// wholly are failures of a destination rather than of one tag. A page in place of a tag is
// no failure where the destination answers otherwise.
var wholly = []error{
	registry.ErrUnauthorized, registry.ErrDenied, registry.ErrLimited, registry.ErrBlocked, registry.ErrPlainHTTP,
	registry.ErrCertificate, registry.ErrCredentials, registry.ErrPage,
}

// ofAll tells whether a failure is about the destination rather than one tag.
func ofAll(err error) bool {
	asked := (*registry.Error)(nil)
	if !errors.As(err, &asked) || asked.Status == 0 && errors.Is(err, registry.ErrUnavailable) {
		return true
	}
	return slices.ContainsFunc(wholly, func(cause error) bool { return errors.Is(err, cause) })
}

// slot is the request with the others of its destination bounded.
func (t *task) slot(request func() error) func() error {
	return func() error {
		t.slots <- struct{}{}
		defer func() { <-t.slots }()
		return request()
	}
}
