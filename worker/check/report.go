package check

// Report is what mirroring would do. Its JSON is part of the command line's contract.
type Report struct {
	Repositories []Row  `json:"repositories"`
	Totals       Totals `json:"totals"`
}

// Row is one repository of the list.
type Row struct {
	Repository  string `json:"repository"`
	Destination string `json:"destination"`
	Counts
	Failed []Failed `json:"failed"` // never nil
}

// Totals are the sums of all rows.
type Totals struct {
	Repositories int `json:"repositories"`
	Counts
	Failed int `json:"failed"`
}

// Counts are numbers of images, and what they cost.
type Counts struct {
	Copy      int `json:"copy"`      // content that the destination lacks
	Tag       int `json:"tag"`       // content that it has, or will have, under another name
	Unchanged int `json:"unchanged"` // the destination is up to date
	Skipped   int `json:"skipped"`   // nothing of it is wanted
	// Pulls are the manifests to get from the source: one for an image, and for an
	// index one more for each platform that the source's listing told.
	Pulls int `json:"pulls"`
	// PullsAtLeast says that there are more pulls than could be told without one:
	// manifests in an index, or what could not be checked.
	PullsAtLeast bool `json:"pulls_at_least"`
	// Bytes are what the copies bring; nil where that is not known.
	Bytes *int64 `json:"bytes"`
}

// Failed is an image, or a repository, that could not be checked.
type Failed struct {
	Image  string `json:"image"`
	Reason string `json:"reason"` // one line without secrets
}

// ToDo reports whether mirroring would change the destination.
func (r Report) ToDo() bool { return r.Totals.Copy+r.Totals.Tag > 0 }

// settle adds what follows from the rest of the row.
func (r *Row) settle() {
	if len(r.Failed) > 0 {
		r.PullsAtLeast = true
	} else if r.Copy == 0 {
		// Sizes stand in manifests, and those of the source are not pulled.
		r.Bytes = new(int64)
	}
}

func (r *Report) total() {
	var bytes int64
	known := true
	for _, row := range r.Repositories {
		r.Totals.add(row.Counts)
		r.Totals.Failed += len(row.Failed)
		if row.Bytes == nil {
			known = false
			continue
		}
		bytes += *row.Bytes
	}
	r.Totals.Repositories = len(r.Repositories)
	if known {
		r.Totals.Bytes = &bytes
	}
}

// add sums up all but Bytes.
func (c *Counts) add(o Counts) {
	c.Copy += o.Copy
	c.Tag += o.Tag
	c.Unchanged += o.Unchanged
	c.Skipped += o.Skipped
	c.Pulls += o.Pulls
	c.PullsAtLeast = c.PullsAtLeast || o.PullsAtLeast
}
