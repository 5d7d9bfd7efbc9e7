package chunk

import (
	"context"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/worker/compare"
)

// schedule orders the copies of a worker's chunks, so that layers which images share
// travel once. What probably shares layers is a family; of each family one image is copied
// before any other begins, and skopeo's blob cache then knows where its layers are. The
// builtin engine knows which blobs are under way, and needs no more than sameContent.
// A chunk knows nothing of what was copied before it began: a new release has new layers.
type schedule struct {
	mu      sync.Mutex
	changed sync.Cond // a job has ended, or waits no longer
	batches map[*batch]bool
	running int
	waiting int             // jobs of all batches
	first   map[string]bool // families whose first copy is under way
}

func newSchedule() *schedule {
	s := &schedule{batches: map[*batch]bool{}, first: map[string]bool{}}
	s.changed.L = &s.mu
	return s
}

// batch is jobs of one chunk.
type batch struct {
	waiting []*member
	known   map[string]bool // families of which one was copied since the batch began
}

// member is a job with the families it belongs to.
type member struct {
	job      *compare.Job
	families []string
	leads    []string // the families that it is the first of
}

// do does the jobs when fewer jobs than concurrency are under way, of each of their families one
// first. An error ends it, as soon as what is under way has ended.
func (s *schedule) do(jobs []*compare.Job, families func(*compare.Job) []string, concurrency int, do func(*compare.Job) error) error {
	b := &batch{known: map[string]bool{}}
	for _, j := range jobs {
		b.waiting = append(b.waiting, &member{job: j, families: families(j)})
	}
	s.mu.Lock()
	s.batches[b] = true
	s.waiting += len(jobs)
	s.mu.Unlock()
	var group errgroup.Group
	for range min(concurrency, len(jobs)) {
		group.Go(func() error {
			for m := s.next(b, concurrency); m != nil; m = s.next(b, concurrency) {
				err := do(m.job)
				s.end(m)
				if err != nil {
					s.drop(b)
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.batches, b)
	return err
}

// next waits for a job of the batch that may begin, and returns nil at the end.
func (s *schedule) next(b *batch, concurrency int) *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(b.waiting) > 0 {
		i := slices.IndexFunc(b.waiting, func(m *member) bool { return s.ready(b, m) })
		if i < 0 || s.running >= concurrency {
			s.changed.Wait() // for a job under way: without one, any is ready
			continue
		}
		m := b.waiting[i]
		b.waiting = slices.Delete(b.waiting, i, i+1)
		s.running++
		s.waiting--
		for _, f := range m.families {
			if !b.known[f] && !s.first[f] {
				s.first[f] = true
				m.leads = append(m.leads, f)
			}
		}
		s.changed.Broadcast()
		return m
	}
	return nil
}

func (s *schedule) ready(b *batch, m *member) bool {
	return !slices.ContainsFunc(m.families, func(f string) bool { return s.first[f] && !b.known[f] })
}

// end makes the families known that the job was the first of, whatever became of it: if
// everything fails, it need not do so one by one.
func (s *schedule) end(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	for _, f := range m.leads {
		delete(s.first, f)
		for b := range s.batches {
			b.known[f] = true
		}
	}
	s.changed.Broadcast()
}

// drop begins no more jobs of the batch.
func (s *schedule) drop(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting -= len(b.waiting)
	b.waiting = nil
	s.changed.Broadcast()
}

// idle waits until fewer jobs than concurrency wait for their turn, or until ctx ends.
func (s *schedule) idle(ctx context.Context, concurrency int) {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.waiting >= concurrency && ctx.Err() == nil {
		s.changed.Wait()
	}
}

// sameContent is the family of a digest that several entries of the list name: what one has
// copied, the others only tag.
func sameContent(j *compare.Job) []string {
	return []string{j.Entry.Destination.String() + "@" + j.Digest.String()}
}

// families are all images, those of one variant, those of one organisation and those
// of one repository; among the latter two, those whose tags begin alike, up to a
// separator, and those of one variant: what was released together is built on one base.
// One digest that several entries of the list name is a family, too.
func families(j *compare.Job) []string {
	repository := j.Entry.Destination.String()
	organisation := repository[:strings.LastIndexByte(repository, '/')+1]
	all := append(sameContent(j), "", organisation, repository)
	for _, image := range j.All() {
		tag := image.Tag.String()
		all = append(all, ":"+variant(tag))
		for _, alike := range append(beginnings(tag), variant(tag)) {
			all = append(all, organisation+":"+alike, repository+":"+alike)
		}
	}
	return all
}

// beginnings of 2024.1-debug are 2024, 2024.1 and itself.
func beginnings(tag string) []string {
	var all []string
	for i, c := range tag {
		if strings.ContainsRune(".-_", c) {
			all = append(all, tag[:i])
		}
	}
	return append(all, tag)
}

// variant of 1.25-alpine is -alpine.
func variant(tag string) string {
	if i := strings.IndexByte(tag, '-'); i >= 0 {
		return tag[i:]
	}
	return ""
}
