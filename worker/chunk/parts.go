package chunk

import "github.com/osism/skopeo-worker/shared/message"

const (
	// partCopies is how many copies a part has: some minutes of work for one
	// worker, so that many workers end at about the same time.
	partCopies = 40
	// maxCopies is how many copies one worker does by itself: splitting up what is
	// little more than a part is not worth the messages.
	maxCopies = 2 * partCopies
)

// parts cuts jobs into parts. A job is never cut: two workers would pull the same.
func parts(jobs []*job) [][]message.Repository {
	var all [][]message.Repository
	for start := 0; start < len(jobs); start += partCopies {
		var part []message.Repository
		for _, j := range jobs[start:min(start+partCopies, len(jobs))] {
			if n := len(part); n > 0 && sameEntry(part[n-1], j.repository) {
				part[n-1].Images = append(part[n-1].Images, j.all()...)
				continue
			}
			r := j.repository
			r.Images = j.all()
			part = append(part, r)
		}
		all = append(all, part)
	}
	return all
}

// sameEntry tells whether two repositories of a chunk come from one entry of the
// list. The selection decides nothing that the others do not: two selections of one
// repository may share their images.
func sameEntry(a, b message.Repository) bool {
	return a.Source == b.Source && a.Destination == b.Destination && a.Tag == b.Tag && a.Digest == b.Digest && a.Selection == b.Selection
}
