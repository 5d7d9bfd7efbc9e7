package chunk

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// fleet holds the states of registries for a test.
type fleet struct {
	mu      sync.Mutex
	away    map[string]bool
	probing map[string]bool
	opened  [][]reference.Repository
	known   []reference.Digest
	blame   func(failures int) bool // whether the registry is away after this number of failures
	failed  int
}

func (f *fleet) spent(registry string) error {
	return &budget.SpentError{Registry: registry, Slot: time.Now().Add(time.Minute), Since: time.Now(), Reason: "503"}
}

func (f *fleet) Open(_ context.Context, repositories ...reference.Repository) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = append(f.opened, repositories)
	probing := false
	for _, r := range repositories {
		if f.away[r.Registry()] {
			return false, f.spent(r.Registry())
		}
		probing = probing || f.probing[r.Registry()]
	}
	return probing, nil
}

func (f *fleet) Blames(_ context.Context, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	suspicion, suspected := outcome.Suspect(err)
	if !suspected && !outcome.Missing(err) || f.blame == nil {
		return nil
	}
	f.failed++
	if f.blame(f.failed) {
		return f.spent(suspicion.Registry)
	}
	return nil
}

func (f *fleet) Known(_, _ reference.Repository, digest reference.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = append(f.known, digest)
}

// TestClosedRegistryIsLeftAlone: a closed source or destination gets no requests, and repositories that do
// not need it continue.
func TestClosedRegistryIsLeftAlone(t *testing.T) {
	for name, at := range map[string]func(*harness) *registrytest.Registry{
		"source":      func(b *harness) *registrytest.Registry { return b.from },
		"destination": func(b *harness) *registrytest.Registry { return b.to },
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			b.push(t, "1", "2")
			b.Registries = &fleet{away: map[string]bool{at(b).Host(): true}}
			result := b.do(t, b.entry(""))
			require.Len(t, result.Left, 1)
			require.Zero(t, result.Left[0].Attempts)
			require.Equal(t, at(b).Host(), result.Away)
			require.Greater(t, result.After, 50*time.Second)
			require.Empty(t, b.from.Requests())
			require.Empty(t, b.to.Requests())
			require.Empty(t, b.kept.records)

			other := registrytest.New(t)
			r := b.entry("")
			r.Destination = reference.MustRepository(other.Host() + "/a")
			b.Registries = &fleet{away: map[string]bool{other.Host(): true}}
			result = b.do(t, r, b.entry(""))
			require.Equal(t, []message.Repository{r}, result.Left)
			require.Equal(t, run.Tally{Total: 2, Copied: 2}, b.images)
			require.Len(t, b.Registries.(*fleet).known, 2)
		})
	}
}

// TestProbedOneByOne: if the probe with the first repository fails, the others are not tried.
func TestProbedOneByOne(t *testing.T) {
	b := newHarness(t)
	var entries []message.Repository
	for _, name := range []string{"a", "b", "c"} {
		_, err := b.from.PushImage(name, "1", registrytest.Image{Version: name})
		require.NoError(t, err)
		r := b.entry("")
		r.Source = reference.MustRepository(b.from.Host() + "/" + name)
		r.Destination = reference.MustRepository(b.to.Host() + "/" + name)
		entries = append(entries, r)
	}
	registries := &fleet{probing: map[string]bool{b.to.Host(): true}, blame: func(int) bool { return true }}
	b.Registries = registries
	remove := b.to.Inject(registrytest.Fault{Match: puts, Status: http.StatusInsufficientStorage})
	result := b.do(t, entries...)
	require.Len(t, result.Left, 3)
	require.Equal(t, b.to.Host(), result.Away)
	require.Equal(t, 1, b.from.Count(lists))
	require.Empty(t, b.kept.records)

	remove()
	require.Empty(t, b.do(t, entries...).Left)
	require.Equal(t, run.Tally{Total: 3, Copied: 3}, b.images)
}

// TestDoubt: images whose last attempt failed are recorded at the end of a round. If the round has
// shown that the registry is away, the attempt does not count.
func TestDoubt(t *testing.T) {
	const images = 4
	for name, test := range map[string]struct {
		fault registrytest.Fault
		blame int // failures after which the registry is away; 0: it never is
	}{
		"away in the end": {registrytest.Fault{Match: puts, Status: 500}, images},
		"never away":      {registrytest.Fault{Match: puts, Status: 500}, images * 100},
		"refused":         {registrytest.Fault{Match: puts, Status: 403}, images},
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			b.MaxAttempts = 1
			b.push(t, registrytest.Numbered("%d", images)...)
			b.Registries = &fleet{blame: func(failures int) bool { return failures >= test.blame }}
			b.to.Inject(test.fault)
			result := b.do(t, b.entry(""))
			if test.blame > images {
				require.Empty(t, result.Left)
				require.Equal(t, run.Tally{Total: images, Failed: images}, b.images)
				return
			}
			require.Empty(t, b.kept.records)
			require.Len(t, result.Left, 1)
			require.Len(t, result.Left[0].Images, images)
			for _, i := range result.Left[0].Images {
				require.Zero(t, i.Attempts)
			}
		})
	}
	t.Run("listing", func(t *testing.T) {
		b := newHarness(t)
		b.MaxAttempts = 1
		b.push(t, "1")
		b.Registries = &fleet{blame: func(failures int) bool { return failures >= 2 }}
		b.from.Inject(registrytest.Fault{Match: lists, Status: 500})
		result := b.do(t, b.entry(""))
		require.Len(t, result.Left, 1)
		require.Zero(t, result.Left[0].Attempts)
		require.Empty(t, b.kept.records)
	})
}

// TestSecondLook: refused images are tried a second time, after other images.
func TestSecondLook(t *testing.T) {
	b := newHarness(t)
	b.Registries = &fleet{}
	b.push(t, "1")
	remove := b.to.Inject(registrytest.Fault{Match: puts, Status: 403})
	result := b.do(t, b.entry(""))
	require.Equal(t, secondLook, result.After)
	require.Empty(t, result.Away)
	require.Len(t, result.Left, 1)
	require.Equal(t, 1, result.Left[0].Images[0].Attempts)
	left := result.Left
	require.Empty(t, b.do(t, left...).Left)
	require.Equal(t, 2, b.kept.only(t).Attempts)
	remove()
	require.Empty(t, b.do(t, left...).Left)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, b.images)
}

// TestWhoHadNothingComesFirst: deliveries that have had no pull come before others, each at another
// time.
func TestWhoHadNothingComesFirst(t *testing.T) {
	const wait = time.Hour // a spread of a minute and a second
	hungry, served := &execution{}, &execution{}
	served.progress.pulls = 1
	times := map[time.Duration]bool{}
	for range 100 {
		first, second := hungry.turn(wait), served.turn(wait)
		require.Less(t, first, second)
		require.LessOrEqual(t, second, time.Minute+time.Second)
		times[first.Truncate(time.Second)] = true
	}
	require.Greater(t, len(times), 10)
}

// closedHost is a network in which a host is closed for the fleet.
type closedHost struct {
	http.RoundTripper
	host string
}

func (c closedHost) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Host == c.host {
		return nil, &budget.SpentError{Registry: c.host, Slot: time.Now().Add(time.Minute), Reason: "429"}
	}
	return c.RoundTripper.RoundTrip(request)
}

// TestClosedStorage: while the host is closed to which a source redirects requests for blobs, manifests are
// not pulled in vain.
func TestClosedStorage(t *testing.T) {
	const storage, images = "storage.invalid", 8
	b := newHarness(t)
	b.Concurrency = 1
	insecure := []string{b.from.Host(), b.to.Host()}
	client := registry.NewClient(registry.Options{Insecure: insecure, Transport: closedHost{registrytest.NewTransport(hurry, b.from, b.to), storage}})
	b.Resolver = &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client})}
	b.Mirror = mirrortest.New(t, client, engine(t, insecure, 10*time.Second))
	b.push(t, registrytest.Numbered("%d", images)...)
	b.from.Inject(registrytest.Fault{Match: blobs, Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {"https://" + storage + "/x"}}})
	result := b.do(t, b.entry(""))
	require.Len(t, result.Left, 1)
	require.Len(t, result.Left[0].Images, images)
	require.Greater(t, result.After, 50*time.Second)
	require.Empty(t, b.kept.records)
	require.Equal(t, 1, b.from.Pulls())
}
