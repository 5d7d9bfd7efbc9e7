package failure

import (
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
)

// Of makes the record of images of one repository of a chunk; without images, of
// the repository itself.
func Of(c message.Chunk, r message.Repository, images []message.Image, reason string) Record {
	record := Record{Repository: r.Source, Registry: c.Registry, Chunk: c.Number, Run: c.Run}
	chosen := r.Selection
	if len(images) == 0 {
		images = []message.Image{{Tag: r.Tag, Digest: r.Digest, Attempts: r.Attempts}}
	} else if chosen != nil {
		chosen = chosen.Contents().Pointer()
	}
	for _, i := range images {
		f := Image{Source: Source(r, i.Tag), Destination: r.Destination, Attempts: i.Attempts, Reason: reason, Selection: chosen}
		if tag := (reference.Reference{Tag: i.Tag, Digest: r.Digest}).DestinationTag(); tag != "" {
			f.Destination += ":" + tag
		}
		record.Images = append(record.Images, f)
	}
	return record
}

// Source names an image, or without a tag the repository, as the list would.
func Source(r message.Repository, tag string) string {
	s := r.Source
	if tag != "" {
		s += ":" + tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}
