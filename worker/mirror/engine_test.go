package mirror_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// builtin is whether this process copies images itself, without skopeo.
var builtin bool

// TestMain runs every test with either engine.
func TestMain(m *testing.M) {
	code := m.Run()
	builtin = true
	fmt.Println("once more, with COPY_ENGINE=builtin")
	os.Exit(max(code, m.Run()))
}

// engine returns the engine to test; nil if builtin.
func engine(insecure []string) mirror.Engine {
	if builtin {
		return nil
	}
	return &skopeo.Runner{Insecure: insecure}
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
	if !builtin {
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
