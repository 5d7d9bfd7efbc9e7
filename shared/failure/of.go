package failure

import (
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
)

// ReasonCancelled stands in the record of an image that was republished and cancelled
// before it was tried again.
const ReasonCancelled = "cancelled before it was tried again"

// Of makes the record of images of one repository of a chunk; without images, of
// the repository itself.
func Of(c message.Chunk, r message.Repository, images []message.Image, reason string) Record {
	record := Record{Repository: r.Source.String(), Registry: c.Registry, Chunk: c.Number, Run: c.Run}
	if len(images) == 0 {
		images = []message.Image{{Tag: r.Tag, Digest: r.Digest, Attempts: r.Attempts}}
	}
	for _, i := range images {
		chosen := r.Selection
		if chosen != nil && !i.Tag.IsZero() { // else it is the repository: which tags, is still to be chosen
			chosen = chosen.Contents().Pointer()
		}
		to := reference.Reference{Repository: r.Destination, Tag: reference.Reference{Tag: i.Tag, Digest: r.Digest}.DestinationTag()}
		record.Images = append(record.Images, Image{
			Source: Source(r, i.Tag), Destination: to.String(), Attempts: i.Attempts, Reason: reason, Selection: chosen,
		})
	}
	return record
}

// Source names an image, or without a tag the repository, as the list would.
func Source(r message.Repository, tag reference.Tag) string {
	return reference.Reference{Repository: r.Source, Tag: tag, Digest: r.Digest}.String()
}
