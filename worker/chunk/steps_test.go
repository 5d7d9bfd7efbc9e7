package chunk

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var (
	steps     = flag.Int("steps", 40, "how many steps of TestEveryStep go wrong; 0: all of them")
	stepsSeed = flag.Uint64("steps.seed", 0, "which ones; 0: others each time")
)

// mishap is what happens to a request.
type mishap struct {
	name  string
	fault registrytest.Fault
}

var html = http.Header{"Content-Type": {"text/html"}}

var mishaps = []mishap{
	{"reset", registrytest.Fault{Reset: true}},
	{"cut", registrytest.Fault{TruncateBody: true}},
	{"cut upload", registrytest.Fault{CutUpload: 7}},
	{"hang", registrytest.Fault{Hang: true}},
	{"500", registrytest.Fault{Status: 500}},
	{"503", registrytest.Fault{Status: 503, Header: http.Header{"Retry-After": {"1"}}}},
	{"429", registrytest.Fault{Status: 429}},
	{"400", registrytest.Fault{Status: 400}},
	{"401", registrytest.Fault{Status: 401}},
	{"403", registrytest.Fault{Status: 403}},
	{"404", registrytest.Fault{Status: 404}},
	{"405", registrytest.Fault{Status: 405}},
	{"413", registrytest.Fault{Status: 413}},
	{"416", registrytest.Fault{Status: 416}},
	{"200 with a page", registrytest.Fault{Status: 200, Header: html, Body: "<html><title>Welcome</title></html>"}},
	{"200 with nothing", registrytest.Fault{Status: 200}},
	{"200 with JSON", registrytest.Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: "{}"}},
	{"201", registrytest.Fault{Status: 201}},
	{"202", registrytest.Fault{Status: 202}},
	{"204", registrytest.Fault{Status: 204}},
	{"206", registrytest.Fault{Status: 206, Body: "x"}},
	{"a redirect without a target", registrytest.Fault{Status: 307}},
	{"a redirect to nowhere", registrytest.Fault{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}},
}

// TestTagsOfOneDigestFailTogether if the destination does not answer what it has of it.
func TestTagsOfOneDigestFailTogether(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1")
	b.move(t, "latest", "1")
	_, err := b.to.PushImage(destination, "0", registrytest.Image{Version: "0"})
	require.NoError(t, err)
	digest, err := b.from.Digest(repository, "1")
	require.NoError(t, err)
	b.to.Inject(registrytest.Fault{Match: registrytest.All(manifests, registrytest.Ref(digest)), Status: 502})
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 2, Failed: 2}, b.images)
	require.Len(t, b.kept.records, 2)
}

// TestEveryStep: whatever happens to any request, once or from then on, what is said to be
// at the destination is there with all that belongs to it, what is not is a failure with a
// reason or left, and the next run mends it.
func TestEveryStep(t *testing.T) {
	seed := *stepsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -steps.seed=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	type step struct {
		atSource, onward bool
		number           int
		mishap
	}
	clean := newStepped(t)
	source, target := clean.count(clean.from, mishap{}, 0, false), clean.count(clean.to, mishap{}, 0, false)
	clean.do(t, clean.selected("", withReferrers))
	clean.whole(t)
	var all []step
	for _, atSource := range []bool{true, false} {
		requests := source.Load()
		if !atSource {
			requests = target.Load()
		}
		for number := range int(requests) {
			for _, m := range mishaps {
				all = append(all, step{atSource, false, number + 1, m}, step{atSource, true, number + 1, m})
			}
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if *steps > 0 {
		all = all[:min(*steps, len(all))]
	}
	for _, s := range all {
		t.Run(fmt.Sprintf("%s, request %d, source %t, onward %t", s.name, s.number, s.atSource, s.onward), func(t *testing.T) {
			t.Parallel()
			b := newStepped(t)
			at := b.to
			if s.atSource {
				at = b.from
			}
			b.count(at, s.mishap, s.number, s.onward)
			b.goWrong(t)
		})
	}
}

// stepped is a harness with a world that has everything that is mirrored.
type stepped struct {
	*harness
	tags      []string
	referrers []string
	remove    []func()
}

func newStepped(t *testing.T) *stepped {
	t.Helper()
	token := registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true})
	b := &stepped{harness: newHarnessBetween(t, registrytest.New(t, token), registrytest.New(t))}
	image := b.move(t, "1", "1")
	index, err := b.from.PushIndex(repository, "2", registrytest.MultiPlatform("2", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	b.move(t, "latest", "1")
	_, err = b.from.PushSignature(repository, index)
	require.NoError(t, err)
	b.referrers = []string{b.refer(t, image, sbom)}
	_, err = b.to.PushImage(destination, "1", registrytest.Image{Version: "old"})
	require.NoError(t, err)
	b.tags = []string{"1", "2", "latest"}
	return b
}

// count counts the requests to a registry, and lets a mishap happen to one of them, and to
// all after it if onward is set.
func (b *stepped) count(at *registrytest.Registry, m mishap, number int, onward bool) *atomic.Int64 {
	var count atomic.Int64
	m.fault.Match = func(r registrytest.Request) bool {
		if r.Status != 0 {
			return false
		}
		n := int(count.Add(1))
		return number > 0 && (n == number || onward && n > number)
	}
	b.remove = append(b.remove, at.Inject(m.fault))
	return &count
}

// goWrong works a chunk off, and requires that nothing is wrong with what was reported.
func (b *stepped) goWrong(t *testing.T) {
	t.Helper()
	entry := b.selected("", withReferrers)
	result := b.do(t, entry)
	for range 3 { // what is left for now
		if len(result.Left) == 0 {
			break
		}
		result = b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Remainder: true})
	}
	b.honest(t, len(result.Left) > 0)

	for _, remove := range b.remove {
		remove()
	}
	b.advanced.Add(int64(time.Hour))
	b.doAgain(t, entry)
	b.whole(t)
}

// honest requires that each tag of the destination is whole, and that those that are not what
// the source has were reported.
func (b *stepped) honest(t *testing.T, left bool) {
	t.Helper()
	tags, err := b.to.Tags(destination)
	require.NoError(t, err)
	for _, tag := range tags {
		require.NoError(t, b.to.Check(destination, tag))
	}
	wrong := 0
	for _, tag := range b.tags {
		want, err := b.from.Digest(repository, tag)
		require.NoError(t, err)
		if got, err := b.to.Digest(destination, tag); err != nil || got != want {
			wrong++
		}
	}
	for source, failed := range b.kept.records {
		require.NotEmpty(t, failed.Reason, source)
	}
	if wrong > 0 && !left {
		require.NotEmpty(t, b.kept.records, "%d tags are missing or old: %+v", wrong, b.images)
	}
	if b.images.Failed > 0 {
		require.NotEmpty(t, b.kept.records)
	}
}

// whole requires that everything was mirrored.
func (b *stepped) whole(t *testing.T) {
	t.Helper()
	b.mirrored(t, b.tags...)
	b.requireAt(t, b.referrers...)
	tags, err := b.from.Tags(repository)
	require.NoError(t, err)
	b.mirrored(t, tags...)
	require.Empty(t, b.kept.records)
}
