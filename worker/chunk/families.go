package chunk

import (
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/worker/compare"
)

// schedule orders the copies of a chunk so that layers which images share travel
// once. What probably shares layers is a family; of each family one image is copied
// before any other begins, and skopeo's blob cache then knows where its layers are. The
// builtin engine knows which blobs are under way, and needs no more than sameContent.
// Nothing is remembered from chunk to chunk: a new release has new layers.
type schedule struct {
	mu       sync.Mutex
	ended    sync.Cond // a job has ended
	waiting  []member
	families map[string]standing
}

// member is a job with the families it belongs to.
type member struct {
	job      *compare.Job
	families []string
}

// standing is how far a family is; the zero value: none of it has begun.
type standing int

const (
	first standing = iota + 1 // its first copy is under way
	known
)

// inFamilies does the jobs, so many at once, of each of their families one first. An error
// ends it, as soon as what is under way has ended.
func inFamilies(jobs []*compare.Job, families func(*compare.Job) []string, concurrency int, do func(*compare.Job) error) error {
	s := &schedule{families: map[string]standing{}}
	s.ended.L = &s.mu
	for _, j := range jobs {
		s.waiting = append(s.waiting, member{j, families(j)})
	}
	var group errgroup.Group
	for range min(concurrency, len(jobs)) {
		group.Go(func() error {
			for m, ok := s.next(); ok; m, ok = s.next() {
				err := do(m.job)
				s.end(m)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// next waits for a job that may begin, and is false at the end.
func (s *schedule) next() (member, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) > 0 {
		if i := slices.IndexFunc(s.waiting, s.ready); i >= 0 {
			m := s.waiting[i]
			s.waiting = slices.Delete(s.waiting, i, i+1)
			s.set(m, 0, first)
			return m, true
		}
		s.ended.Wait() // for a job under way: without one, any is ready
	}
	return member{}, false
}

func (s *schedule) ready(m member) bool {
	return !slices.ContainsFunc(m.families, func(f string) bool { return s.families[f] == first })
}

// end makes the families known that the job was the first of, whatever became of it: if
// everything fails, it need not do so one by one.
func (s *schedule) end(m member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(m, first, known)
	s.ended.Broadcast()
}

func (s *schedule) set(m member, from, to standing) {
	for _, f := range m.families {
		if s.families[f] == from {
			s.families[f] = to
		}
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
