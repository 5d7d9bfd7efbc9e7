package check

import (
	"context"
	"errors"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/worker/registry"
)

// job is one digest, with all the tags that are not up to date.
type job struct {
	images  []*image
	known   bool // the destination has it under another tag
	verdict verdict
	err     error
}

// verdict is what a digest needs.
type verdict int

const (
	copying verdict = iota
	tagging
	skipping
)

// judgeAll finds out what each digest needs.
func (t *task) judgeAll(ctx context.Context, destination string, jobs []*job, empty bool) {
	var group errgroup.Group
	group.SetLimit(requests)
	for _, j := range jobs {
		switch {
		case len(j.images) == 0:
		case j.known:
			j.verdict = tagging
		case j.images[0].unwanted():
			j.verdict = skipping
		case empty:
			j.verdict = copying
		default:
			group.Go(func() error {
				j.err = t.insist(ctx, destination, t.slot(func() (err error) {
					j.verdict, err = t.judge(ctx, destination, j.images[0])
					return err
				}))
				return nil
			})
		}
	}
	_ = group.Wait() // the errors are in the jobs
}

// judge asks for the digest: under another name, it only has to be tagged. An index
// of just some platforms is made anew from the source's, which takes pulls.
func (t *task) judge(ctx context.Context, destination string, i *image) (verdict, error) {
	d, err := t.Mirror.Registry.Head(ctx, destination, i.digest)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return copying, nil
	case err != nil:
		return copying, err
	case i.wanted.All():
		return tagging, nil
	case !isImage(d.MediaType):
		return copying, nil
	}
	// It may have been copied to learn its platform, and left without a tag.
	wanted, err := t.Mirror.Wants(ctx, destination, i.digest, i.wanted)
	if err == nil && !wanted {
		return skipping, nil
	}
	return tagging, err
}

// count adds what becomes of the images of a job.
func (r *Row) count(j *job) {
	n := len(j.images)
	switch {
	case n == 0:
	case j.err != nil:
		for _, image := range j.images {
			r.Failed = append(r.Failed, failed(image.source, j.err))
		}
	case j.verdict == tagging:
		r.Tag += n
	case j.verdict == skipping:
		r.Skipped += n
		// A worker that does not remember it yet gets the index to learn it.
		r.PullsAtLeast = r.PullsAtLeast || j.images[0].unwanted()
	default:
		pulls, atLeast := j.images[0].pulls()
		r.Copy++
		r.Tag += n - 1
		r.Pulls += pulls
		r.PullsAtLeast = r.PullsAtLeast || atLeast
	}
}

// unwanted tells whether the listing has told the platforms, and none is wanted.
func (i *image) unwanted() bool { return len(i.platforms) > 0 && i.covered() == 0 }

// covered counts the wanted ones of the platforms that the listing told.
func (i *image) covered() int {
	n := 0
	for _, p := range i.platforms {
		if i.wanted.Covers(p) {
			n++
		}
	}
	return n
}

// pulls is how many manifests a copy gets from the source. What an index lists is
// known only as far as a listing told its platforms: attestations are in none.
func (i *image) pulls() (n int, atLeast bool) {
	switch {
	case isImage(i.mediaType):
		return 1, false
	case types.MediaType(i.mediaType).IsIndex(), len(i.platforms) > 1:
		return 1 + i.covered(), true
	}
	return 1, true
}

func isImage(mediaType string) bool {
	kind := types.MediaType(mediaType)
	return kind.IsImage() || kind.IsSchema1()
}
