package compare

import (
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// Job is one digest of an entry, with all tags of the entry that have it.
type Job struct {
	Entry     message.Repository // without its images
	Digest    reference.Digest   // of the source; zero if it is not looked up yet
	MediaType string             // empty if unknown
	Listed    resolve.Listed     // data from the source's listing
	Verdict   Verdict
	Why       error            // of Skip, Keep, Wait and Failed
	Until     time.Time        // of Wait
	Images    []message.Image  // images to which the verdict applies; none if it is Unchanged
	Current   []message.Image  // images whose tags are up to date
	At        reference.Digest // digest of the content at the destination; zero if absent
	Resolved  time.Time        // when the tags were looked up; set by the caller of Compare
	Bearer    *Job             // the job whose companion this one is; nil if none
	// Had are the digests that the destination had under the tags of Images.
	Had map[reference.Tag]reference.Digest

	followed followed
}

// jobOf returns the job of a single image. at is the digest that the destination has under its
// tag; zero if none is known.
func jobOf(r message.Repository, i message.Image, at reference.Digest, verdict Verdict, why error) *Job {
	r.Images = nil
	return &Job{
		Entry: r, Digest: i.Digest, MediaType: i.MediaType, Images: []message.Image{i}, Verdict: verdict, Why: why,
		Had: map[reference.Tag]reference.Digest{DestinationTag(i): at},
	}
}

// About returns the job of the image to which a companion belongs, also for the companion of a
// companion. For any other job, it returns the job itself.
func (j *Job) About() *Job {
	for j.Bearer != nil {
		j = j.Bearer
	}
	return j
}

// Replaces notes the digest that the destination has under a tag now.
func (j *Job) Replaces(tag reference.Tag, had reference.Digest) { set(&j.Had, tag, had) }

// IsLacking reports whether the destination lacks the content of a job.
func (j *Job) IsLacking() bool { return j.Verdict == Copy || j.Verdict == Tag && j.At.IsZero() }

// All returns all images of the job.
func (j *Job) All() []message.Image {
	return append(j.Images[:len(j.Images):len(j.Images)], j.Current...)
}

// IsImage reports whether the digest is known to belong to an image rather than an index.
func (j *Job) IsImage() bool { return isImage(j.MediaType) }

func isImage(mediaType string) bool {
	kind := types.MediaType(mediaType)
	return kind.IsImage() || kind.IsSchema1()
}

// IsAboutOthers reports whether all tags of the job are tags of companions.
func (j *Job) IsAboutOthers() bool {
	return !slices.ContainsFunc(j.All(), func(i message.Image) bool {
		_, ok := selection.Companion(i.Tag.String())
		return !ok
	})
}

// Covered counts the wanted platforms among those that the source's listing shows for the
// digest, and adds up the bytes of their layers.
func (j *Job) Covered() (n int, size int64) {
	wanted := Wanted(j.Entry)
	for _, p := range j.Listed.Platforms {
		if wanted.Covers(p.Name) {
			n++
			size += p.Size
		}
	}
	return n, size
}

// Unwanted reports whether the source's listing shows platforms for the digest, but none that
// is wanted.
func (j *Job) Unwanted() bool {
	n, _ := j.Covered()
	return n == 0 && len(j.Listed.Platforms) > 0
}
