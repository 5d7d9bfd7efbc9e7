package chunk

import (
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/compare"
)

const (
	// partCopies is how many copies a part has: some minutes of work for one
	// worker, so that many workers end at about the same time.
	partCopies = 40
	// maxCopies is how many copies one worker does by itself: splitting up what is
	// little more than a part is not worth the messages.
	maxCopies = 2 * partCopies
)

// parts cuts jobs into parts. A job is never cut: two workers would pull the same.
func parts(jobs []*compare.Job) [][]message.Repository {
	var all [][]message.Repository
	for start := 0; start < len(jobs); start += partCopies {
		var part []message.Repository
		for _, j := range jobs[start:min(start+partCopies, len(jobs))] {
			if n := len(part); n > 0 && compare.EntryOf(part[n-1]) == compare.EntryOf(j.Entry) {
				part[n-1].Images = append(part[n-1].Images, j.All()...)
				continue
			}
			r := j.Entry
			r.Images = j.All()
			part = append(part, r)
		}
		all = append(all, part)
	}
	return all
}
