package skopeo_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// gated is a family whose processes wait before they become skopeo.
type gated struct {
	*family
	gate    *os.File
	started string // a file with a line for each process
	images  []skopeo.Image
	looked  atomic.Int64 // blobs that were looked up
}

// newGated returns small images of one repository with a common layer. then is what a process executes
// when it may go on.
func newGated(t *testing.T, images int, then string) *gated {
	t.Helper()
	f, dir := newFamily(t), t.TempDir()
	path := filepath.Join(dir, "gate")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	gate, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	g := &gated{family: f, gate: gate, started: filepath.Join(dir, "started")}
	program, err := exec.LookPath("skopeo")
	require.NoError(t, err)
	f.runner = script(t, fmt.Sprintf("echo >>%s; read line <%s; %s", g.started, path, strings.ReplaceAll(then, "SKOPEO", program+` "$@"`)))
	for n := range images {
		g.add(t, "mirror/a", fmt.Sprint(n))
	}
	f.from.ResetRequests()
	return g
}

// add adds an image of a repository, with the common layer.
func (g *gated) add(t *testing.T, repository, version string) {
	t.Helper()
	image := g.image(t, repository, version, registrytest.Layer{Seed: "base", Size: small}, registrytest.Layer{Seed: version, Size: small})
	claim := image.Claim
	image.Claim = func(ctx context.Context, blob registry.Descriptor) (func(), error) {
		g.looked.Add(1)
		return claim(ctx, blob)
	}
	g.images = append(g.images, image)
}

// begin begins to copy all images, and returns when each is to be copied.
func (g *gated) begin(t *testing.T, contexts ...context.Context) (ended []chan error) {
	t.Helper()
	for n, image := range g.images {
		turn, err := g.runner.Turn(t.Context(), image)
		require.NoError(t, err)
		t.Cleanup(turn.End)
		ctx := t.Context()
		if n < len(contexts) {
			ctx = contexts[n]
		}
		of, before := make(chan error, 1), g.looked.Load()
		ended = append(ended, of)
		go func() { of <- turn.Copy(ctx) }()
		require.Eventually(t, func() bool { return g.looked.Load() > before }, deadline, time.Millisecond)
	}
	return ended
}

// goOn lets so many processes go on.
func (g *gated) goOn(t *testing.T, processes int) {
	t.Helper()
	_, err := g.gate.WriteString(strings.Repeat("\n", processes))
	require.NoError(t, err)
}

func (g *gated) processes(t *testing.T) int {
	t.Helper()
	lines, err := os.ReadFile(g.started)
	require.NoError(t, err)
	return len(lines)
}

// TestTogether: one process copies small images of several repositories, with no more requests than
// several processes send.
func TestTogether(t *testing.T) {
	g := newGated(t, 4, "exec SKOPEO")
	for n, repository := range []string{"mirror/b", "mirror/b", "mirror/c"} {
		g.add(t, repository, fmt.Sprint(repository[7:], n))
	}
	g.from.ResetRequests()
	ended := g.begin(t)
	g.goOn(t, 1)
	for n, of := range ended {
		require.NoError(t, <-of)
		g.whole(t, g.images[n])
	}
	require.Equal(t, 1, g.processes(t))
	require.Zero(t, g.from.Pulls())
	require.Equal(t, 2*len(g.images)+1, g.from.Count(blobGets), "the layers and configurations, and the common layer once")
	require.Equal(t, 2, g.to.Count(mounts), "the common layer in the other repositories")
}

// TestNotTogether: a process copies only small images between the same registries, and not too many.
func TestNotTogether(t *testing.T) {
	const many = 9
	for name, test := range map[string]struct {
		images, processes int
		change            func(t *testing.T, g *gated)
	}{
		"many": {many, 2, func(*testing.T, *gated) {}},
		"another registry": {2, 2, func(t *testing.T, g *gated) {
			g.images[1].Source = reference.MustRepository("other.example/" + source)
		}},
		"large": {2, 2, func(t *testing.T, g *gated) {
			g.images[1] = g.image(t, "mirror/a", "large", registrytest.Layer{Seed: "large", Size: large})
		}},
		"zstd": {2, 2, func(t *testing.T, g *gated) {
			g.images[1] = g.image(t, "mirror/a", "zstd", registrytest.Layer{Seed: "zstd", Size: small, Zstd: true})
		}},
		"the same": {2, 2, func(_ *testing.T, g *gated) { g.images[1] = g.images[0] }},
		"a policy": {2, 2, func(t *testing.T, g *gated) {
			path := filepath.Join(t.TempDir(), "policy.json")
			write(t, path, `{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"example.com/other":[{"type":"reject"}]}}}`)
			t.Setenv("CONTAINERS_POLICY_JSON", path)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGated(t, test.images, "exec SKOPEO")
			test.change(t, g)
			g.goOn(t, test.processes)
			ended := make(chan error)
			for _, image := range g.images {
				turn, err := g.runner.Turn(t.Context(), image)
				require.NoError(t, err)
				defer turn.End()
				go func() { ended <- turn.Copy(t.Context()) }()
			}
			for range g.images {
				require.NoError(t, <-ended)
			}
			require.Equal(t, test.processes, g.processes(t))
			for _, image := range g.images {
				g.whole(t, image)
			}
		})
	}
}

// TestLate: an image that comes when skopeo has asked for the images gets another process, also if it
// had its turn before.
func TestLate(t *testing.T) {
	g := newGated(t, 2, "exec SKOPEO")
	var turns []skopeo.Turn
	for _, image := range g.images {
		turn, err := g.runner.Turn(t.Context(), image)
		require.NoError(t, err)
		defer turn.End()
		turns = append(turns, turn)
	}
	g.goOn(t, 2)
	for n, turn := range turns {
		require.NoError(t, turn.Copy(t.Context()))
		g.whole(t, g.images[n])
	}
	require.Equal(t, 2, g.processes(t))
}

// TestNoProcess: if the image with which a process would begin is not copied, others that wait for it
// are, and the blobs that they have claimed are free.
func TestNoProcess(t *testing.T) {
	g := newGated(t, 2, "exec SKOPEO")
	g.images[1].Manifest = g.images[0].Manifest
	first, err := g.runner.Turn(t.Context(), g.images[0])
	require.NoError(t, err)
	second, err := g.runner.Turn(t.Context(), g.images[1])
	require.NoError(t, err)
	defer second.End()
	ended := make(chan error)
	go func() { ended <- second.Copy(t.Context()) }()
	require.Eventually(t, func() bool { return g.looked.Load() > 0 }, deadline, time.Millisecond)
	g.goOn(t, 2)
	require.NoError(t, first.Copy(t.Context()), "the image is there already")
	first.End()
	require.NoError(t, <-ended)
	require.Equal(t, 2, g.processes(t))
	g.whole(t, g.images[0])
}

// TestTogetherOneFails: if a copy fails or is interrupted, its process ends, and others copy the other
// images.
func TestTogetherOneFails(t *testing.T) {
	failed := errors.New("the request has failed")
	for name, test := range map[string]struct {
		change func(*skopeo.Image)
		want   error
	}{
		"source": {func(i *skopeo.Image) {
			i.Open = func(context.Context, registry.Descriptor) (skopeo.Blob, error) { return nil, failed }
		}, failed},
		"destination": {func(i *skopeo.Image) {
			i.Put = func(context.Context, registry.Descriptor, []byte) error { return failed }
		}, failed},
		"interrupted": {func(*skopeo.Image) {}, context.Canceled},
	} {
		for at := range 3 {
			t.Run(fmt.Sprint(name, at), func(t *testing.T) {
				g := newGated(t, 3, "exec SKOPEO")
				test.change(&g.images[at])
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				contexts := []context.Context{t.Context(), t.Context(), t.Context()}
				contexts[at] = ctx
				ended := g.begin(t, contexts...)
				if errors.Is(test.want, context.Canceled) {
					cancel()
					require.ErrorIs(t, <-ended[at], test.want)
				}
				g.goOn(t, len(ended))
				for n, of := range ended {
					switch {
					case n != at:
						require.NoError(t, <-of)
						g.whole(t, g.images[n])
					case !errors.Is(test.want, context.Canceled):
						require.Equal(t, test.want, <-of)
					}
				}
			})
		}
	}
}

// TestTogetherPutsNothing: an image that a process has not put is not copied, even if it ends without an
// error.
func TestTogetherPutsNothing(t *testing.T) {
	g := newGated(t, 3, "exit 0")
	ended := g.begin(t)
	g.goOn(t, 1+len(ended))
	for _, of := range ended {
		require.ErrorContains(t, <-of, "skopeo exited without an error, but has not put the manifest")
	}
}

// TestTogetherSkopeoFails: skopeo's error is that of the image which it cannot copy.
func TestTogetherSkopeoFails(t *testing.T) {
	g := newGated(t, 3, "exec SKOPEO")
	open := g.images[1].Open
	g.images[1].Open = func(ctx context.Context, blob registry.Descriptor) (skopeo.Blob, error) {
		if !types.MediaType(blob.MediaType).IsConfig() {
			return open(ctx, blob)
		}
		return part{strings.NewReader(strings.Repeat("x", int(blob.Size))), blob.Size}, nil
	}
	want := new(skopeo.Runner).CopyImage(t.Context(), g.images[1])
	require.Error(t, want)
	ended := g.begin(t)
	g.goOn(t, 1+len(ended))
	for n, of := range ended {
		if n == 1 {
			require.EqualError(t, <-of, want.Error())
			continue
		}
		require.NoError(t, <-of)
		g.whole(t, g.images[n])
	}
}

// TestTogetherStalls: if a process stalls, the image at which it is has stalled.
func TestTogetherStalls(t *testing.T) {
	g := newGated(t, 2, `if test -e "$0.again"; then exec SKOPEO; fi; touch "$0.again"; sleep 600`)
	g.runner.Stall = stall
	ended := g.begin(t)
	g.goOn(t, 3)
	for n, of := range ended {
		require.NoError(t, <-of, "the process had not begun with it")
		g.whole(t, g.images[n])
	}
	require.Equal(t, 3, g.processes(t))
}

// TestTogetherWaits: processes that wait for each other's blobs go on.
func TestTogetherWaits(t *testing.T) {
	from, to, _, _ := pair(t)
	client := registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host()}})
	f := &family{from, to, nil, transfer.New(client), client}
	a, b := registrytest.Layer{Seed: "a", Size: small}, registrytest.Layer{Seed: "b", Size: small}
	var groups [][]skopeo.Image
	for _, repository := range []string{"mirror/a", "mirror/b"} {
		group := []skopeo.Image{f.image(t, repository, repository[7:]+"1", a), f.image(t, repository, repository[7:]+"2", b)}
		a, b = b, a
		groups = append(groups, group)
	}
	// Each process claims the layer of its second image first.
	ended, claimed := make(chan error), new(sync.WaitGroup)
	claimed.Add(len(groups))
	for _, group := range groups {
		g := newGated(t, 0, "exec SKOPEO")
		for n := range group {
			claim, done := group[n].Claim, sync.OnceFunc(claimed.Done)
			called := make(chan struct{})
			calls := sync.OnceFunc(func() { close(called) })
			group[n].Claim = func(ctx context.Context, blob registry.Descriptor) (func(), error) {
				calls()
				if n == 0 {
					claimed.Wait()
				}
				release, err := claim(ctx, blob)
				if n == 1 && !types.MediaType(blob.MediaType).IsConfig() {
					done()
				}
				return release, err
			}
			turn, err := g.runner.Turn(t.Context(), group[n])
			require.NoError(t, err)
			defer turn.End()
			go func() { ended <- turn.Copy(t.Context()) }()
			<-called
		}
		defer func() { require.Equal(t, 1, g.processes(t)) }()
		g.goOn(t, 1)
	}
	for range 4 {
		require.NoError(t, <-ended)
	}
	for _, image := range slices.Concat(groups...) {
		f.whole(t, image)
	}
}
