// Package failure records the images that have failed, until a run mirrors them or they are
// republished.
package failure

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// Image is one failed image. A repository that could not be listed is an image without a
// tag.
type Image struct {
	Source      string `json:"source"`      // quay.io/osism/osism:1.0, or …@sha256:…
	Destination string `json:"destination"` // registry.example.com/osism/osism:1.0
	Attempts    int    `json:"attempts"`
	Reason      string `json:"reason"`
	// FirstFailed is when the image was first recorded since it was last mirrored or republished,
	// to the second. It is zero in old records.
	FirstFailed time.Time `json:"first_failed,omitzero"`
	// LeftList is when a plan of the whole list first found that the list no longer has the
	// image; zero if it has.
	LeftList time.Time `json:"left_list,omitzero"`
	// Selection selects which tags of a repository, or which contents of an image, a republish
	// mirrors. If nil, it mirrors everything.
	Selection *selection.Selection `json:"selection,omitempty"`
}

// same reports whether both are failures of the same image, or of the same repository with
// the same tags.
func (i Image) same(other Image) bool {
	return i.Source == other.Source && i.Destination == other.Destination && i.tags() == other.tags()
}

// imageKey identifies an image within a record.
type imageKey struct{ source, destination, tags string }

// key is equal for images that are the same.
func (i Image) key() imageKey { return imageKey{i.Source, i.Destination, i.tags()} }

// tags returns a hash of the selection of tags.
func (i Image) tags() string {
	if i.Selection == nil {
		return selection.Selection{}.Hash()
	}
	return i.Selection.Tags().Hash()
}

// Record is the failures of one repository.
type Record struct {
	Repository string    `json:"repository"`
	Registry   string    `json:"registry"`
	Chunk      int       `json:"chunk"`
	Run        string    `json:"run"`
	FailedAt   time.Time `json:"failed_at"`
	Images     []Image   `json:"images"`
	// Message is a message that no worker could read, cut to message.MaxSize.
	Message []byte `json:"message,omitzero"`
	// Unreadable is true if this stands for a message that is not a record. Message has its
	// beginning.
	Unreadable bool `json:"unreadable,omitempty"`
}

// complete reports whether the record has the fields that every record has.
func (r Record) complete() bool {
	return r.Repository != "" && len(r.Images) > 0 && !r.Unreadable &&
		!slices.ContainsFunc(r.Images, func(i Image) bool { return i.Source == "" })
}

// maxReason is the longest reason in bytes. Longer ones are outputs of programs.
const maxReason = 4 << 10

// storable returns the record with long fields cut so that it fits into a message.
func (r Record) storable() Record {
	r.Images = slices.Clone(r.Images)
	for i, image := range r.Images {
		if len(image.Reason) > maxReason {
			r.Images[i].Reason = strings.ToValidUTF8(image.Reason[:maxReason], "") + "…"
		}
	}
	if len(r.Message) > message.MaxSize {
		r.Message = r.Message[:message.MaxSize]
	}
	return r
}

// merge makes one record of a repository's pages. Its chunk, run and time are those of the
// newest failure.
func merge(pages []*page) (Record, bool) {
	var whole Record
	for _, p := range pages {
		if len(p.record.Images) == 0 {
			continue
		}
		images := slices.Concat(whole.Images, p.record.Images)
		if p.record.FailedAt.After(whole.FailedAt) || whole.Repository == "" {
			whole = p.record
		}
		whole.Images = images
	}
	slices.SortFunc(whole.Images, func(a, b Image) int { return cmp.Compare(a.Source, b.Source) })
	return whole, len(whole.Images) > 0
}

// ReasonCancelled is the reason of an image that was republished, and whose run was cancelled before
// the image was tried again.
const ReasonCancelled = "cancelled before it was tried again"

// Of returns a record for images of one repository of a chunk or, without images, for the
// repository itself.
func Of(c message.Chunk, r message.Repository, images []message.Image, reason string) Record {
	record := Record{Repository: r.Source.String(), Registry: c.Registry, Chunk: c.Number, Run: c.Run}
	if len(images) == 0 {
		images = []message.Image{{Tag: r.Tag, Digest: r.Digest, Attempts: r.Attempts}}
	}
	for _, i := range images {
		chosen := r.Selection
		if chosen != nil && !i.Tag.IsZero() { // without a tag, it is the repository, and keeps the selection of tags
			chosen = chosen.Contents().Pointer()
		}
		to := reference.Reference{Repository: r.Destination, Tag: reference.Reference{Tag: i.Tag, Digest: r.Digest}.DestinationTag()}
		record.Images = append(record.Images, Image{
			Source: Source(r, i.Tag), Destination: to.String(), Attempts: i.Attempts, Reason: reason, Selection: chosen,
		})
	}
	return record
}

// Source returns the name of an image, as in a list. Without a tag, it is the name of the repository.
func Source(r message.Repository, tag reference.Tag) string {
	return reference.Reference{Repository: r.Source, Tag: tag, Digest: r.Digest}.String()
}

// keptBytes is how many bytes of an unreadable message List returns.
const keptBytes = 4 << 10

// foreign is a message under the subjects of failures that is not a record. It stays until Forget
// deletes it or a record is written on its subject.
type foreign struct {
	message *jetstream.RawStreamMsg
	why     error
}

// record returns a record that stands for the message.
func (f foreign) record() Record {
	name := MessageName(f.message.Sequence, f.message.Subject)
	return Record{
		Repository: name,
		Registry:   UnknownRegistry,
		FailedAt:   f.message.Time.UTC(),
		Message:    f.message.Data[:min(len(f.message.Data), keptBytes)],
		Unreadable: true,
		Images: []Image{{
			Source: name, Reason: fmt.Sprintf("this is not a failure record (%v): %s", f.why, message.Excerpt(f.message.Data)),
		}},
	}
}

// UnknownRegistry is the registry of an unreadable message.
const UnknownRegistry = "unknown"

// MessageName returns a name for an unreadable message, in place of the name of a repository.
func MessageName(sequence uint64, subject string) string {
	if quoted := strconv.QuoteToASCII(subject); quoted != `"`+subject+`"` {
		subject = quoted
	}
	return fmt.Sprintf("message %d on %s", sequence, subject)
}
