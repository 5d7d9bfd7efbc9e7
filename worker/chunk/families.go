package chunk

import (
	"context"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/worker/compare"
)

// schedule orders the copies of a worker's chunks so that shared layers are copied once. Images
// that probably share layers are a family. One image of each family is copied before the others
// begin; then the worker knows the places of its layers. If images share the copies of blobs
// (mirror.Mirror.SharesBlobs), their only families are images with the same content (sameContent).
// Earlier chunks do not count, because a new release has new layers.
type schedule struct {
	mu      sync.Mutex
	changed sync.Cond // signals that a job has ended, or no longer waits
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
	known   map[string]bool // families with an image that was copied since the batch began
}

// member is a job with the families it belongs to.
type member struct {
	job      *compare.Job
	families []string
	leads    []string // families whose first copy it is
}

// add returns jobs of one chunk, which wait for do.
func (s *schedule) add(jobs []*compare.Job, families func(*compare.Job) []string) *batch {
	b := &batch{known: map[string]bool{}}
	for _, j := range jobs {
		b.waiting = append(b.waiting, &member{job: j, families: families(j)})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches[b] = true
	s.waiting += len(jobs)
	return b
}

// do calls do for each job, for at most concurrency jobs of all batches at the same time, and for
// one job of each family first. After an error, it begins no more jobs, and returns when the
// running ones have ended.
func (s *schedule) do(b *batch, concurrency int, do func(*compare.Job) error) error {
	var group errgroup.Group
	for range min(concurrency, len(b.waiting)) {
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

// end makes the families of a first copy known, even if the copy has failed, so that copies which
// all fail do not run one by one.
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

// drop removes the waiting jobs of a batch.
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

// sameContent is the family of a digest. If several entries of the list have it, the first copies
// it, and the others put their tags.
func sameContent(j *compare.Job) []string {
	return []string{j.Entry.Destination.String() + "@" + j.Digest.String()}
}

// families returns the families of an image: its digest, all images, its variant, its organization,
// and its repository. In the organization and in the repository, images whose tags begin alike up
// to a separator are families, too, and so are those of a variant. Images that are released
// together are built on the same base.
func families(j *compare.Job) []string {
	repository := j.Entry.Destination.String()
	organization := repository[:strings.LastIndexByte(repository, '/')+1]
	all := append(sameContent(j), "", organization, repository)
	for _, image := range j.All() {
		tag := image.Tag.String()
		all = append(all, ":"+variant(tag))
		for _, alike := range append(beginnings(tag), variant(tag)) {
			all = append(all, organization+":"+alike, repository+":"+alike)
		}
	}
	return all
}

// beginnings returns the parts of a tag that end at a separator, and the tag: 2024, 2024.1 and
// 2024.1-debug.
func beginnings(tag string) []string {
	var all []string
	for i, c := range tag {
		if strings.ContainsRune(".-_", c) {
			all = append(all, tag[:i])
		}
	}
	return append(all, tag)
}

// variant returns the variant in a tag, such as -alpine in 1.25-alpine, or "".
func variant(tag string) string {
	if i := strings.IndexByte(tag, '-'); i >= 0 {
		return tag[i:]
	}
	return ""
}
