package chunk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

// verify removes the images from a job that the signature policy does not accept, before anything
// is copied or tagged. Tags that are up to date stay as they are.
func (e *execution) verify(ctx context.Context, j *compare.Job) error {
	if e.mirror.IsTrusting() || len(j.Images) == 0 {
		return nil
	}
	errs := e.reasons(j, j.Images)
	if wanted := compare.Wanted(j.Entry); e.mirror.Unwanted(j.Entry.Source, j.Digest, wanted) {
		if err := e.Skip(ctx, j); err != nil {
			return err
		}
		j.Images, j.Current = nil, nil
		return e.worker.Notes.NoteAbsent(ctx, j.Digest, wanted)
	}
	var trusted []message.Image
	var failed []attempt
	orphans := *j
	orphans.Images, orphans.Current = nil, nil
	lost := *j // has the images that the source no longer has
	lost.Images, lost.Current = nil, nil
	var gone error
	for i, image := range j.Images {
		switch {
		case errs[i] == nil:
			trusted = append(trusted, image)
		case errors.Is(errs[i], errOrphan):
			orphans.Images, orphans.Why = append(orphans.Images, image), errs[i]
		case j.Bearer == nil && outcome.Classify(errs[i]) == outcome.Gone:
			lost.Images, gone = append(lost.Images, image), errs[i]
		default:
			failed = append(failed, attempt{image, errs[i]})
		}
	}
	j.Images = trusted
	if len(j.All()) == 0 && len(errs) > 0 {
		e.distrust(j, errs[0])
	}
	if len(orphans.Images) > 0 {
		if err := e.Skip(ctx, &orphans); err != nil {
			return err
		}
	}
	if gone != nil {
		if err := e.gone(ctx, &lost, gone); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return e.failed(ctx, j.Entry, failed...)
	}
	return nil
}

// distrust notes why no image of a job is mirrored for now. Their companions are not, either.
func (e *execution) distrust(j *compare.Job, why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.distrusted[j] = why
}

// isDistrusted reports whether the policy keeps the image of a companion from being mirrored.
func (e *execution) isDistrusted(j *compare.Job) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.distrusted[j.About()] != nil
}

// reasons returns, for each of the images of a job, why the policy does not accept it; nil if it
// does. A companion is not signed itself: it is accepted if its image is.
func (e *execution) reasons(j *compare.Job, images []message.Image) []error {
	errs := make([]error, len(images))
	if bearer := j.About(); bearer != j {
		err := aboutAnother(bearer.Digest, e.reason(bearer))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	var tags []reference.Tag
	var at []int
	for i, image := range images {
		if subject, ok := selection.Companion(image.Tag.String()); ok {
			errs[i] = aboutAnother(subject, e.subjectReason(j.Entry, subject))
			continue
		}
		tags, at = append(tags, compare.SourceTag(j.Entry, image)), append(at, i)
	}
	if len(tags) == 0 {
		return errs
	}
	for k, err := range e.ask(j.Entry.Source, j.Digest, tags...) {
		errs[at[k]] = err
	}
	return errs
}

// reason returns why the policy accepts a job under none of its tags; nil if it accepts one.
func (e *execution) reason(j *compare.Job) (first error) {
	e.mu.Lock()
	why := e.distrusted[j]
	e.mu.Unlock()
	if why != nil {
		return why
	}
	images := j.All()
	if len(images) == 0 { // its tags have moved on
		return e.digestReason(j.Entry, j.Digest)
	}
	for i, err := range e.reasons(j, images) {
		if err == nil {
			return nil
		}
		if i == 0 {
			first = err
		}
	}
	return first
}

// errOrphan is returned for a companion, such as a signature, whose image the source does not have.
var errOrphan = errors.New("the source does not have the image")

// subjectReason returns why the policy does not accept the image of a companion. The chunk has no
// tag of that image, so it is accepted if a job with its digest is, or the job of an index that
// lists it.
func (e *execution) subjectReason(r message.Repository, subject reference.Digest) error {
	e.mu.Lock()
	bearer := e.subjects[contentAt{r.Source, r.Destination, subject}]
	e.mu.Unlock()
	if bearer == nil {
		bearer = e.around(r, subject)
	}
	if bearer != nil {
		return e.reason(bearer)
	}
	_, err := e.mirror.Registry.Head(e.work, r.Source, subject)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		if away := e.worker.Registries.Blames(e.work, err); away != nil {
			return away
		}
		return errOrphan
	case err != nil:
		return err
	}
	return e.digestReason(r, subject)
}

// digestReason returns why the policy does not accept an image by its digest, nor under a tag that
// it has had, nor as a part of an accepted index.
func (e *execution) digestReason(r message.Repository, digest reference.Digest) error {
	why := e.ask(r.Source, digest, reference.Tag{})[0]
	if !errors.Is(why, policy.ErrRejected) {
		return why
	}
	known, err := e.delivery.Observer.Known(e.work, r)
	if err != nil {
		return err
	}
	tags, indexes := map[reference.Digest][]reference.Tag{}, map[reference.Digest]reference.Digest{}
	for _, t := range known {
		if _, companion := selection.Companion(t.Name.String()); companion || t.Pinned || t.Source.IsZero() {
			continue
		}
		tags[t.Source] = append(tags[t.Source], t.Name)
		if !t.At.IsZero() {
			indexes[t.Source] = t.At
		}
	}
	if accepted, err := e.accepts(r.Source, digest, tags[digest]); accepted || err != nil {
		return err
	}
	for source, at := range indexes {
		if source == digest || !slices.Contains(e.listedBy(r.Destination, at), digest) {
			continue
		}
		if accepted, err := e.accepts(r.Source, source, append(tags[source], reference.Tag{})); accepted || err != nil {
			return err
		}
	}
	return why
}

// accepts reports whether the policy accepts a digest under one of the tags. The error is that of
// a request.
func (e *execution) accepts(source reference.Repository, digest reference.Digest, tags []reference.Tag) (bool, error) {
	var unknown error
	for _, err := range e.ask(source, digest, tags...) {
		switch {
		case err == nil:
			return true, nil
		case !errors.Is(err, policy.ErrRejected):
			unknown = err
		}
	}
	return false, unknown
}

// contentAt is a digest of a source that is mirrored to a destination.
type contentAt struct {
	source, destination reference.Repository
	digest              reference.Digest
}

// noteSubjects notes the jobs of images that may have companions.
func (e *execution) noteSubjects(jobs []*compare.Job) {
	if e.mirror.IsTrusting() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, j := range jobs {
		if j.Bearer == nil && !j.IsAboutOthers() {
			e.subjects[contentAt{j.Entry.Source, j.Entry.Destination, j.Digest}] = j
		}
	}
}

// around returns the job of an index at the destination that lists a manifest, or nil.
func (e *execution) around(r message.Repository, digest reference.Digest) *compare.Job {
	e.mu.Lock()
	jobs := slices.Collect(maps.Values(e.subjects))
	e.mu.Unlock()
	for _, j := range jobs {
		if j.Entry.Source == r.Source && j.Entry.Destination == r.Destination && slices.Contains(e.below(j), digest) {
			return j
		}
	}
	return nil
}

// below returns the manifests that the index of a job lists at the destination. It returns none if
// the job is an image, or if the destination does not have it.
func (e *execution) below(j *compare.Job) []reference.Digest {
	at, _ := e.comparer.Present(j)
	if at.IsZero() || j.IsImage() {
		return nil
	}
	return e.listedBy(j.Entry.Destination, at)
}

// listedBy returns the manifests that an index at the destination lists. It returns none for an
// image, or if the destination does not have it.
func (e *execution) listedBy(destination reference.Repository, at reference.Digest) []reference.Digest {
	e.mu.Lock()
	known, ok := e.lists[at]
	e.mu.Unlock()
	if ok {
		return known
	}
	found, err := e.mirror.Below(e.work, destination, at)
	if err != nil {
		return nil // the policy is asked about the image itself
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lists[at] = found
	return found
}

// ask asks the policy about a digest under each of the tags. A zero tag stands for the digest
// itself.
func (e *execution) ask(source reference.Repository, digest reference.Digest, tags ...reference.Tag) []error {
	pulls, errs := e.mirror.Verify(e.work, source, digest, tags)
	e.tally(func(p *progress) { p.pulls += pulls })
	return errs
}

// aboutAnother adds the image of a companion to an error.
func aboutAnother(subject reference.Digest, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("it refers to %s: %w", subject, err)
}
