package chunk

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// counts are the numbers of requests of each kind at a registry.
type counts map[registrytest.Kind]int

// requestsOf counts the requests that a registry got.
func requestsOf(r *registrytest.Registry) counts {
	got := counts{}
	for _, request := range r.Requests() {
		got[request.Kind]++
	}
	return got
}

// wantedCold are the requests to the source, and to an empty destination.
func wantedCold(digests bool) [2]counts {
	source := counts{registrytest.KindPing: 1, registrytest.KindToken: 2, registrytest.KindManifestGet: 18, registrytest.KindBlobGet: 25}
	// The first tag of a repository is looked up, and its tags are listed, which shows that it is
	// empty. Each blob takes a POST and a PUT. One blob is mounted, with a token for both
	// repositories.
	destination := counts{
		registrytest.KindPing: 1, registrytest.KindToken: 3, registrytest.KindManifestHead: 2, registrytest.KindTags: 2,
		registrytest.KindManifestPut: 18, registrytest.KindOther: 25, registrytest.KindBlobUpload: 25, registrytest.KindBlobMount: 1,
	}
	if digests {
		source[registrytest.KindBulkList], destination[registrytest.KindBulkList] = 2, 2
	} else {
		source[registrytest.KindTags], source[registrytest.KindManifestHead] = 2, 6
	}
	return [2]counts{source, destination}
}

// wantedAgain are the requests if nothing is new.
func wantedAgain(digests bool) [2]counts {
	if digests {
		return [2]counts{{registrytest.KindBulkList: 2}, {registrytest.KindBulkList: 2}}
	}
	return [2]counts{{registrytest.KindTags: 2, registrytest.KindManifestHead: 6}, {registrytest.KindManifestHead: 6}}
}

// TestRequests: two repositories with three tags of two platforms cost each side exactly these
// requests, both in the first run and if nothing is new. Each image has its own config and layer;
// all images of one platform share another layer.
func TestRequests(t *testing.T) {
	repositories := []string{"osism/one", "osism/two"}
	for name, digests := range map[string]bool{"that lists digests": true, "that lists names": false} {
		t.Run(name, func(t *testing.T) {
			auth := registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2", Anonymous: true})
			options := []registrytest.Option{auth}
			if digests {
				options = append(options, registrytest.WithQuayAPI(registrytest.BulkAPI{}))
			}
			from, to := registrytest.New(t, options...), registrytest.New(t, options...)
			b := newHarnessBetween(t, from, to)
			insecure := []string{from.Host(), to.Host()}
			path := filepath.Join(t.TempDir(), "auth.json")
			entry := `{"auth":"` + base64.StdEncoding.EncodeToString([]byte("bob:hunter2")) + `"}`
			require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:%s,%q:%s}}`, from.Host(), entry, to.Host(), entry), 0o600))
			t.Setenv("REGISTRY_AUTH_FILE", path)
			client := registry.NewClient(registry.Options{Insecure: insecure, Keychain: containers.New(cloud.New())})
			var quays []string
			if digests {
				quays = insecure
			}
			lister := listing.New(listing.Options{Registry: client, QuayHosts: quays})
			b.Resolver = &resolve.Upstream{Registry: client, Listing: lister}
			b.Mirror = mirrortest.New(t, client, engine(t, insecure, 10*time.Second))
			b.Mirror.Listing = lister
			b.Mirror.Free = func(reference.Repository) bool { return true }
			var entries []message.Repository
			for _, repository := range repositories {
				for _, tag := range []string{"1", "2", "3"} {
					_, err := from.PushIndex(repository, tag, index(repository+tag))
					require.NoError(t, err)
				}
				entries = append(entries, message.Repository{
					Source:      reference.MustRepository(from.Host() + "/" + repository),
					Destination: reference.MustRepository(to.Host() + "/mirror/" + repository),
				})
			}
			mirror := func(want run.Tally) [2]counts {
				from.ResetRequests()
				to.ResetRequests()
				require.Empty(t, b.do(t, entries...).Left)
				require.Equal(t, want, b.images)
				return [2]counts{requestsOf(from), requestsOf(to)}
			}
			cold := mirror(run.Tally{Total: 6, Copied: 6})
			require.Equal(t, wantedCold(digests), cold)
			again := mirror(run.Tally{Total: 6, Unchanged: 6})
			require.Equal(t, wantedAgain(digests), again)
		})
	}
}

// index is one of two platforms.
func index(version string) registrytest.Index {
	var index registrytest.Index
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		index.Images = append(index.Images, registrytest.Image{Version: version, Platform: platform, Layers: []registrytest.Layer{{Seed: version + platform, Size: 1000}}})
	}
	index.Images[0].Layers = append(index.Images[0].Layers, registrytest.Layer{Seed: "base", Size: 1000})
	return index
}
