// Package failure keeps the images that were tried and given up, until a run
// finds them mirrored or somebody republishes them.
package failure

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
)

// Image is one image that was given up. A repository that could not be listed is
// an image without a tag.
type Image struct {
	Source      string `json:"source"`      // quay.io/osism/osism:1.0, or …@sha256:…
	Destination string `json:"destination"` // registry.example.com/osism/osism:1.0
	Attempts    int    `json:"attempts"`
	Reason      string `json:"reason"`
}

// Record is what is known of the failures of one repository.
type Record struct {
	Repository string    `json:"repository"`
	Registry   string    `json:"registry"`
	Chunk      int       `json:"chunk"`
	Run        string    `json:"run"`
	FailedAt   time.Time `json:"failed_at"`
	Images     []Image   `json:"images"`
	// Message is a message that no worker could read, as it came.
	Message []byte `json:"message,omitempty"`
}

// page is one message of a record. Sequence is the last of its subject: of the
// record, of its tombstone, or 0 where there is neither.
type page struct {
	number   int
	sequence uint64
	record   Record
}

func (p *page) encode() ([]byte, error) {
	data, err := json.Marshal(p.record)
	if err != nil {
		return nil, fmt.Errorf("encoding the failures of %s: %w", p.record.Repository, err)
	}
	return data, nil
}

// put adds an image to the page that has it, or to the first with room for it, or
// to a new one, and returns the page. A page number is used again only once its
// message has expired, so that its sequence is known.
func put(pages []*page, image Image, limit int) (*page, []*page) {
	for _, p := range pages {
		for i := range p.record.Images {
			if p.record.Images[i].Source == image.Source {
				p.record.Images[i] = image
				return p, pages
			}
		}
	}
	number := 1
	for _, p := range pages {
		data, err := p.encode()
		if err == nil && len(data)+size(image) < limit {
			p.record.Images = append(p.record.Images, image)
			return p, pages
		}
		number = max(number, p.number+1)
	}
	p := &page{number: number}
	p.record.Images = []Image{image}
	return p, append(pages, p)
}

func size(i Image) int {
	data, _ := json.Marshal(i)
	return len(data) + 1
}

// merge makes one record of a repository's pages. The newest failure tells the
// chunk, the run and the time.
func merge(pages []*page) (Record, bool) {
	var whole Record
	for _, p := range pages {
		if len(p.record.Images) == 0 {
			continue
		}
		images := append(whole.Images, p.record.Images...)
		if p.record.FailedAt.After(whole.FailedAt) || whole.Repository == "" {
			whole = p.record
		}
		whole.Images = images
	}
	slices.SortFunc(whole.Images, func(a, b Image) int { return cmp.Compare(a.Source, b.Source) })
	return whole, len(whole.Images) > 0
}

// maxPage is the size in bytes that a page may reach.
const maxPage = message.MaxSize
