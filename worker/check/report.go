package check

import (
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Report is the forecast of a run. Its JSON is part of the command line's contract.
type Report struct {
	Repositories []Row `json:"repositories"`
	// Namespaces could not be listed, or list too few repositories. The caller of Check sets
	// them, and counts them in Totals.
	Namespaces []Failed   `json:"namespaces,omitempty"`
	Registries []Registry `json:"registries"` // registries from which images are pulled; never nil
	Totals     Totals     `json:"totals"`
}

// Row is one repository of the list.
type Row struct {
	Repository  reference.Repository `json:"repository"`
	Destination reference.Repository `json:"destination"`
	Counts
	Failed []Failed `json:"failed"` // never nil
	// Rejected are images that SIGNATURE_POLICY rejects, as far as that is known without a
	// pull.
	Rejected []Failed `json:"rejected,omitempty"`
	// Waits are the images that Waiting counts.
	Waits []wait `json:"waits,omitempty"`
	// Warnings are probable mistakes in the list, such as a filter that matches no tag.
	Warnings []string `json:"warnings,omitempty"`
}

// Totals are the sums of all rows.
type Totals struct {
	Repositories int `json:"repositories"`
	Counts
	Failed   int `json:"failed"`
	Rejected int `json:"rejected"`
	// Seconds is the time of the registry that takes longest; nil if no limit is known.
	Seconds *int `json:"seconds"`
}

// Counts are numbers of images, and their pulls and bytes.
type Counts struct {
	Copy      int `json:"copy"`      // content that the destination lacks
	Tag       int `json:"tag"`       // content that it has, or will have, under another name
	Unchanged int `json:"unchanged"` // the destination is up to date
	Skipped   int `json:"skipped"`   // without a wanted platform
	Waiting   int `json:"waiting"`   // not old enough yet
	Kept      int `json:"kept"`      // the source has moved an immutable tag
	// Unverified are images to copy or tag whose signatures a run has to check. Signed are
	// images whose signatures were checked.
	Unverified int `json:"unverified"`
	Signed     int `json:"signed"`
	// Referrers are signatures, SBOMs and attestations that the destination lacks.
	Referrers int `json:"referrers"`
	// Pulls are the manifests to pull from the source: one for each image and each referrer,
	// and for an index one more for each platform in the source's listing.
	Pulls int `json:"pulls"`
	// PullsAtLeast reports whether Pulls is a lower bound: a check cannot count the manifests
	// of an index that it does not pull, or the pulls of images that failed.
	PullsAtLeast bool `json:"pulls_at_least"`
	// Bytes is the size of the layers to copy, as far as the source's listing shows sizes; nil
	// if it shows none. BytesAtLeast reports whether it is a lower bound.
	Bytes        *int64 `json:"bytes"`
	BytesAtLeast bool   `json:"bytes_at_least"`
}

// wait is an image that is not old enough yet.
type wait struct {
	Image  string           `json:"image"`
	Digest reference.Digest `json:"digest"`
	Until  time.Time        `json:"until"`
}

// Failed is an image, a repository or a namespace that could not be checked or is rejected.
type Failed struct {
	Image  string `json:"image"`
	Reason string `json:"reason"` // one line without secrets
	// Line is the line of the entry in the list; 0 if there are several. The caller of Check
	// sets it.
	Line int `json:"line,omitempty"`
}

// ToDo reports whether a run would change the destination.
func (r Report) ToDo() bool { return r.Totals.Copy+r.Totals.Tag+r.Totals.Referrers > 0 }

// settle sets the fields that depend on the rest of the row.
func (r *Row) settle() {
	switch {
	case len(r.Failed) > 0:
		r.PullsAtLeast, r.BytesAtLeast = true, true
	case r.Copy+r.Referrers == 0:
		r.Bytes = new(int64)
	}
}

func (r *Report) total() {
	r.Totals = Totals{Repositories: len(r.Repositories)}
	for _, row := range r.Repositories {
		r.Totals.add(row.Counts)
		r.Totals.Failed += len(row.Failed)
		r.Totals.Rejected += len(row.Rejected)
	}
	if b := r.Totals.Bytes; b == nil && !r.Totals.BytesAtLeast {
		r.Totals.Bytes = new(int64)
	} else if b != nil && *b == 0 && r.Totals.BytesAtLeast {
		r.Totals.Bytes = nil
	}
}

func (c *Counts) add(o Counts) {
	c.Copy += o.Copy
	c.Tag += o.Tag
	c.Unchanged += o.Unchanged
	c.Skipped += o.Skipped
	c.Kept += o.Kept
	c.Unverified += o.Unverified
	c.Signed += o.Signed
	c.Waiting += o.Waiting
	c.Referrers += o.Referrers
	c.Pulls += o.Pulls
	c.PullsAtLeast = c.PullsAtLeast || o.PullsAtLeast
	if o.Bytes != nil {
		c.addBytes(*o.Bytes)
	}
	c.BytesAtLeast = c.BytesAtLeast || o.BytesAtLeast
}
