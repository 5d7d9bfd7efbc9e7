package chunk

import (
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// families orders copies so that layers which images share travel once: of images
// that probably share some, the first is copied alone, and skopeo's blob cache then
// knows where its layers are. Images of one repository are a family, and so are
// the repositories of one organisation.
type families struct {
	mu   sync.Mutex
	done map[string]bool
}

// maxFamilies bounds what a worker that lives for months remembers.
const maxFamilies = 10_000

// copy does the jobs, so many at once.
func (f *families) copy(jobs []*job, concurrency int, do func(*job) error) error {
	slots := make(chan struct{}, concurrency)
	var group errgroup.Group
	run := func(j *job) error {
		slots <- struct{}{}
		defer func() { <-slots }()
		return do(j)
	}
	var follow func(jobs []*job, keys ...func(*job) string)
	follow = func(jobs []*job, keys ...func(*job) string) {
		if len(keys) == 0 {
			for _, j := range jobs {
				group.Go(func() error { return run(j) })
			}
			return
		}
		for _, family := range groups(jobs, keys[0]) {
			if f.known(keys[0](family[0])) {
				follow(family, keys[1:]...)
				continue
			}
			group.Go(func() error {
				err := run(family[0])
				for _, key := range keys {
					f.note(key(family[0]))
				}
				follow(family[1:], keys[1:]...)
				return err
			})
		}
	}
	follow(jobs, byOrganisation, byRepository)
	return group.Wait()
}

func byOrganisation(j *job) string {
	i := strings.LastIndexByte(j.repository.Destination, '/')
	return j.repository.Destination[:i+1]
}

func byRepository(j *job) string { return j.repository.Destination }

// groups keeps the order of the jobs.
func groups(jobs []*job, key func(*job) string) [][]*job {
	var groups [][]*job
	index := map[string]int{}
	for _, j := range jobs {
		i, known := index[key(j)]
		if !known {
			i = len(groups)
			index[key(j)] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], j)
	}
	return groups
}

func (f *families) known(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done[key]
}

func (f *families) note(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done == nil || len(f.done) >= maxFamilies {
		f.done = map[string]bool{}
	}
	f.done[key] = true
}
