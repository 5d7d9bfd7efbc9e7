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

// Job is one digest of an entry, with all tags of the entry that name it.
type Job struct {
	Entry     message.Repository // without its images
	Digest    reference.Digest   // zero if it is not looked up yet
	MediaType string             // empty if unknown
	Listed    resolve.Listed     // what the listing says of it
	Verdict   Verdict
	Why       error            // of Skip, Keep, Wait and Failed
	Until     time.Time        // of Wait
	Images    []message.Image  // that the verdict is about, unless it is Unchanged
	Current   []message.Image  // whose tags are up to date
	At        reference.Digest // that the content has at the destination; zero if it has none
	Resolved  time.Time        // when the tags were looked up; set by the caller of Compare
	Bearer    *Job             // that it is a companion of; nil if it is none
	// Had are the digests that the destination had under the tags of Images.
	Had map[reference.Tag]reference.Digest

	followed followed
}

// IsSkipped reports whether nothing of the job is mirrored, or whether it is a companion of
// such a job.
func (j *Job) IsSkipped() bool {
	return j.Verdict == Skip || j.Verdict == Keep || j.Verdict == Wait || j.Bearer != nil && j.Bearer.IsSkipped()
}

// About returns the job that a companion is about, in the end: of a signature's signature, the
// image. Of any other job, it is the job itself.
func (j *Job) About() *Job {
	for j.Bearer != nil {
		j = j.Bearer
	}
	return j
}

// Replaces notes what the destination has under a tag now.
func (j *Job) Replaces(tag reference.Tag, had reference.Digest) { set(&j.Had, tag, had) }

// IsLacking reports whether the destination lacks the content of a job.
func (j *Job) IsLacking() bool { return j.Verdict == Copy || j.Verdict == Tag && j.At.IsZero() }

// All returns all images of the job.
func (j *Job) All() []message.Image {
	return append(j.Images[:len(j.Images):len(j.Images)], j.Current...)
}

// IsImage reports whether the digest is known to be of an image, rather than of an index.
func (j *Job) IsImage() bool { return isImage(j.MediaType) }

func isImage(mediaType string) bool {
	kind := types.MediaType(mediaType)
	return kind.IsImage() || kind.IsSchema1()
}

// IsAboutOthers reports whether all tags of the job are those of something about another image.
func (j *Job) IsAboutOthers() bool {
	return !slices.ContainsFunc(j.All(), func(i message.Image) bool {
		_, ok := selection.Companion(i.Tag.String())
		return !ok
	})
}

// Covered counts the wanted ones among the platforms that the listing says of the job's
// digest, with the size of their layers in bytes.
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

// Unwanted reports whether the listing says the platforms of the digest, and none of them
// is wanted.
func (j *Job) Unwanted() bool {
	n, _ := j.Covered()
	return n == 0 && len(j.Listed.Platforms) > 0
}
