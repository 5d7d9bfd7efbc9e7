package mirror_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/scripttest"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

var engines mirrortest.Engines

func TestMain(m *testing.M) { os.Exit(engines.Run(m)) }

// engine returns the engine that copies images for a test.
func engine(t *testing.T, insecure []string) mirror.Engine {
	return engines.Of(t, &skopeo.Runner{Insecure: insecure})
}

// TestImagesOfAnIndexShareLayers: they are copied at the same time, and each layer once. If skopeo sends
// its requests itself, they are copied one after the other.
func TestImagesOfAnIndexShareLayers(t *testing.T) {
	var index registrytest.Index
	for i := range 6 {
		index.Images = append(index.Images, registrytest.Image{Platform: fmt.Sprint("linux/p", i), Layers: []registrytest.Layer{
			{Seed: "base", Size: 1 << 20}, {Seed: "small", Size: 1000}, {Seed: fmt.Sprint(i), Size: 1000},
		}})
	}
	ways := map[string]bool{"one process for all requests": false}
	if !engines.Builtin {
		ways["skopeo itself"] = true
	}
	for name, itself := range ways {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			if itself {
				p.byItself()
			}
			_, err := p.from.PushIndex(repository, "1", index)
			require.NoError(t, err)
			_, err = p.mirror(t, "1")
			require.NoError(t, err)
			p.same(t, "1")
			require.Equal(t, 2+2*len(index.Images), p.from.Count(registrytest.Kinds(registrytest.KindBlobGet)))
		})
	}
}

// TestProcessesAtOnce: no more processes run at once than Runner.AtOnce, whatever they copy.
func TestProcessesAtOnce(t *testing.T) {
	const images = 4
	running, most := filepath.Join(t.TempDir(), "running"), filepath.Join(t.TempDir(), "most")
	require.NoError(t, os.Mkdir(running, 0o700))
	path := filepath.Join(t.TempDir(), "skopeo")
	scripttest.Write(t, path, fmt.Sprintf("touch %[1]s/$$\nls %[1]s | wc -l >>%[2]s\nskopeo \"$@\"\ncode=$?\nrm %[1]s/$$\nexit $code", running, most))
	for _, itself := range []bool{false, true} {
		p := newPair(t)
		runner := &skopeo.Runner{Path: path, Insecure: []string{p.from.Host(), p.to.Host()}, AtOnce: 1}
		if p.Engine = runner; itself {
			p.Engine = readingItself{runner}
		}
		var group errgroup.Group
		for n := range images {
			tag := fmt.Sprint(n)
			_, err := p.from.PushImage(repository, tag, registrytest.Image{Version: tag, Layers: []registrytest.Layer{{Seed: tag, Size: 1 << 20}}})
			require.NoError(t, err)
			group.Go(func() error {
				_, err := p.mirror(t, tag)
				return err
			})
		}
		require.NoError(t, group.Wait())
		for n := range images {
			p.same(t, fmt.Sprint(n))
		}
	}
	counts, err := os.ReadFile(most)
	require.NoError(t, err)
	require.Equal(t, 2*images, len(strings.Fields(string(counts))))
	require.Equal(t, []string{"1"}, slices.Compact(strings.Fields(string(counts))))
}
