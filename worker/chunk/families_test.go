package chunk

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

func jobOf(name, tag string) *compare.Job {
	return &compare.Job{Entry: message.Repository{Destination: reference.MustRepository("mirror.example.com/" + name)}, Digest: reference.DigestOf([]byte(name + tag)), Images: []message.Image{{Tag: reference.MustTag(tag)}}}
}

func do(s *schedule, jobs []*compare.Job, families func(*compare.Job) []string, concurrency int, do func(*compare.Job) error) error {
	return s.do(s.add(jobs, families), concurrency, do)
}

// TestFirstOfAFamily: the first copy of a family ends before the others begin, which then run at the
// same time.
func TestFirstOfAFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var jobs []*compare.Job
		for _, name := range []string{"a/one", "a/two", "a/three", "b/one"} {
			for _, tag := range []string{"1", "2", "3", "4"} {
				jobs = append(jobs, jobOf(name, tag))
			}
		}
		var mu sync.Mutex
		var early []string
		begun, ended := map[string]int{}, map[string]int{}
		began := time.Now()
		require.NoError(t, do(newSchedule(), jobs, families, 4, func(j *compare.Job) error {
			mu.Lock()
			for _, f := range families(j) {
				if begun[f] > 0 && ended[f] == 0 {
					early = append(early, j.Digest.String()+" of "+f)
				}
				begun[f]++
			}
			mu.Unlock()
			<-time.After(time.Second)
			mu.Lock()
			defer mu.Unlock()
			for _, f := range families(j) {
				ended[f]++
			}
			return nil
		}))
		require.Empty(t, early)
		require.Equal(t, 12, ended["mirror.example.com/a/"])
		require.Equal(t, 4, ended["mirror.example.com/b/"])
		// One image is copied alone, then the first one of the other organisation, and then there
		// are enough for every slot.
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}

// TestFamiliesOfSeveralChunks: several chunks together have no more copies at once than one chunk,
// and a family has one first image across all of them.
func TestFamiliesOfSeveralChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const concurrency = 3
		s := newSchedule()
		var mu sync.Mutex
		begun, ended := map[string]int{}, map[string]int{}
		running, most := 0, 0
		var early []string
		copied := func(j *compare.Job) error {
			mu.Lock()
			running++
			most = max(most, running)
			for _, f := range sameContent(j) {
				if begun[f] > 0 && ended[f] == 0 {
					early = append(early, f)
				}
				begun[f]++
			}
			mu.Unlock()
			<-time.After(time.Second)
			mu.Lock()
			defer mu.Unlock()
			running--
			for _, f := range sameContent(j) {
				ended[f]++
			}
			return nil
		}
		var group errgroup.Group
		for range 3 {
			group.Go(func() error {
				return do(s, []*compare.Job{jobOf("a/a", "1"), jobOf("a/a", "2"), jobOf("a/a", "3")}, sameContent, concurrency, copied)
			})
		}
		began := time.Now()
		synctest.Wait()
		s.idle(t.Context(), concurrency)
		require.Equal(t, 2*time.Second, time.Since(began), "of nine jobs, three have ended, and three more have begun")
		require.NoError(t, group.Wait())
		require.Equal(t, concurrency, most)
		require.Empty(t, early)
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Empty(t, s.first)
		require.Empty(t, s.batches)
		require.Zero(t, s.waiting)
		require.ErrorIs(t, do(s, []*compare.Job{jobOf("a/a", "1"), jobOf("a/a", "2")}, families, 1, func(*compare.Job) error { return errLeft }), errLeft)
		require.Zero(t, s.waiting, "what does not begin any more waits no longer")
	})
}

// TestBrokerTroubleEndsTheCopies: after an error, no further job begins, and the running ones are
// not waited for.
func TestBrokerTroubleEndsTheCopies(t *testing.T) {
	broken := errors.New("no broker")
	n := 0
	err := do(newSchedule(), []*compare.Job{jobOf("a/a", "1"), jobOf("a/a", "2"), jobOf("a/a", "3")}, families, 1, func(*compare.Job) error { n++; return broken })
	require.ErrorIs(t, err, broken)
	require.Equal(t, 1, n)
}

// TestLayersTravelOnce: shared layers are pulled and pushed once: the base of all repositories of a
// release, in any organization, and the layers of one repository. The second release has another base.
func TestLayersTravelOnce(t *testing.T) {
	b := newHarness(t)
	b.Concurrency = 8
	names := append(registrytest.Numbered("team/service%d", 4), "other/service")
	var entries []message.Repository
	for _, name := range names {
		entries = append(entries, message.Repository{Source: reference.MustRepository(b.from.Host() + "/" + name), Destination: reference.MustRepository(b.to.Host() + "/mirror/" + name)})
	}
	for _, release := range []string{"2024.1", "2024.2"} {
		var group errgroup.Group
		for _, name := range names {
			for _, variant := range []string{"", "-debug"} {
				group.Go(func() error {
					_, err := b.from.PushImage(name, release+variant, registrytest.Image{Version: release + variant, Layers: []registrytest.Layer{
						{Seed: "base " + release, Size: 200 << 10}, {Seed: name + release, Size: 50 << 10}, {Seed: name + release + variant, Size: 1 << 10},
					}})
					return err
				})
			}
		}
		require.NoError(t, group.Wait())
		b.reset()
		require.Empty(t, b.do(t, entries...).Left)
		require.Equal(t, 2*len(names), b.images.Copied)
		for what, match := range map[string]registrytest.Match{"downloads": blobs, "uploads": registrytest.Kinds(registrytest.KindBlobUpload)} {
			r := b.from
			if what == "uploads" {
				r = b.to
			}
			times := map[string]int{}
			for _, request := range r.Requests() {
				if match(request) {
					times[request.Reference]++
				}
			}
			require.NotEmpty(t, times)
			for digest, n := range times {
				require.Equal(t, 1, n, "%s of %s", what, digest)
			}
		}
	}
}

// TestKin: images whose blobs are shared need not wait for the first of a family; those whose requests
// skopeo sends itself do.
func TestKin(t *testing.T) {
	client := registry.NewClient(registry.Options{})
	conf := filepath.Join(t.TempDir(), "registries.conf")
	require.NoError(t, os.WriteFile(conf, []byte("[[registry]]\nlocation = 'elsewhere.example.com'\n[[registry.mirror]]\nlocation = 'mirror.example.com'\n"), 0o600))
	t.Setenv("CONTAINERS_REGISTRIES_CONF", conf)
	forget := func() { containers.New(cloud.New()).Forget("quay.io") }
	forget()
	t.Cleanup(forget)
	for _, engine := range []mirror.Engine{nil, &skopeo.Runner{}} {
		e := &execution{mirror: mirrortest.New(t, client, engine)}
		kin := e.kin(t.Context())
		for host, shared := range map[string]bool{"quay.io": true, "elsewhere.example.com": engine == nil} {
			j := jobOf("a/a", "1-debug")
			j.Entry.Source = reference.MustRepository(host + "/a/a")
			want := families(j)
			if shared {
				want = sameContent(j)
			}
			require.Equal(t, want, kin(j), host)
		}
	}
}
