package platform_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// number returns the digest number n.
func number(n int) string { return "sha256:" + strings.Repeat(fmt.Sprintf("%02d", n), 32) }

func manifest(mediaType types.MediaType, raw string) registry.Manifest {
	return registry.Manifest{Raw: []byte(raw), MediaType: string(mediaType), Digest: reference.DigestOf([]byte(raw))}
}

func compact(t *testing.T, raw []byte) string {
	t.Helper()
	var text bytes.Buffer
	require.NoError(t, json.Compact(&text, raw))
	return text.String()
}

// Indexes of BuildKit, with fields that must be kept.
var (
	amd64 = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + number(1) + `","size":1,` +
		`"platform":{"architecture":"amd64","os":"linux"},"artifactType":"a/b","unknown":{"z":1.50,"a":12345678901234567890},"annotations":{"k":"<&>"}}`
	arm64 = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + number(2) + `","size":2,` +
		`"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}`
	artifact = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + number(3) + `","size":3}`
	nested   = `{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + number(4) + `","size":4}`
	ofAMD64  = attestation(5, 1)
	ofARM64  = attestation(6, 2)
	orphan   = attestation(7, 99)
)

func attestation(n, of int) string {
	return `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + number(n) + `","size":5,` +
		`"annotations":{"vnd.docker.reference.digest":"` + number(of) + `","vnd.docker.reference.type":"attestation-manifest"},` +
		`"platform":{"architecture":"unknown","os":"unknown"}}`
}

func index(entries ...string) registry.Manifest {
	return manifest(types.OCIImageIndex, "{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.oci.image.index.v1+json\",\n"+
		"  \"manifests\": [\n    "+strings.Join(entries, ",\n    ")+"\n  ],\n  \"x\": \"<y>\",\n"+
		"  \"annotations\": {\"org.opencontainers.image.title\": \"<tool>\"}\n}")
}

func TestSubset(t *testing.T) {
	only := func(platforms ...string) platform.Wanted { return platform.Wanted{Platforms: platforms} }
	without := func(platforms ...string) platform.Wanted {
		return platform.Wanted{Platforms: platforms, WithoutAttestations: true}
	}
	all := []string{amd64, arm64, ofAMD64, artifact, ofARM64, nested, orphan}
	for name, test := range map[string]struct {
		wanted platform.Wanted
		has    []string
		kept   []string // nil: ErrNoPlatform
	}{
		"one platform":                {only("linux/amd64"), all, []string{amd64, ofAMD64, artifact, nested}},
		"both":                        {only("linux/amd64", "linux/arm64"), all, []string{amd64, arm64, ofAMD64, artifact, ofARM64, nested}},
		"without attestations":        {without(), all, []string{amd64, arm64, artifact, nested}},
		"one without":                 {without("linux/arm64"), all, []string{arm64, artifact, nested}},
		"all":                         {only(), all, all},
		"nothing to leave out":        {without("linux/arm64"), []string{arm64}, []string{arm64}},
		"none":                        {only("linux/s390x"), []string{amd64, arm64, ofAMD64}, nil},
		"an artifact is not an image": {only("linux/s390x"), []string{amd64, artifact}, nil},
		"artifacts only":              {only("linux/s390x"), []string{artifact}, []string{artifact}},
		"who knows":                   {only("linux/s390x"), []string{amd64, nested}, []string{nested}},
		"attestations only":           {without(), []string{orphan}, nil},
		"empty":                       {only("linux/amd64"), nil, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			source := index(test.has...)
			subset, entries, err := test.wanted.Subset(source)
			if test.kept == nil {
				require.ErrorIs(t, err, platform.ErrNoPlatform)
				return
			}
			require.NoError(t, err)
			listed, err := subset.Entries()
			require.NoError(t, err)
			require.Equal(t, descriptors(listed), descriptors(entries), "never sparse")
			if len(test.kept) == len(test.has) {
				require.Equal(t, source, subset)
				require.True(t, test.wanted.Current(subset, source.Digest))
				return
			}
			platforms := "all"
			if len(test.wanted.Platforms) > 0 {
				platforms = strings.Join(test.wanted.Platforms, ",")
			}
			require.Equal(t, fmt.Sprintf(`{"annotations":{"io.osism.skopeo-worker.attestations":"%t",`+
				`"io.osism.skopeo-worker.platforms":%q,"io.osism.skopeo-worker.source":%q,"org.opencontainers.image.title":"<tool>"},`+
				`"manifests":[%s],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2,"x":"<y>"}`,
				!test.wanted.WithoutAttestations, platforms, source.Digest, strings.Join(test.kept, ",")), string(subset.Raw))
			require.Equal(t, reference.DigestOf(subset.Raw), subset.Digest)
			require.Equal(t, source.MediaType, subset.MediaType)
		})
	}
}

func descriptors(entries []registry.Entry) []registry.Descriptor {
	var all []registry.Descriptor
	for _, entry := range entries {
		all = append(all, entry.Descriptor)
	}
	return all
}

func TestNoPlatformSaysWhatThereIs(t *testing.T) {
	_, _, err := platform.Wanted{Platforms: []string{"linux/ppc64le", "linux/s390x"}}.Subset(index(amd64, arm64, ofAMD64))
	require.EqualError(t, err, "none of the platforms linux/ppc64le,linux/s390x: it has linux/amd64, linux/arm64/v8")
}

func TestSubsetOfWhatIsNoIndex(t *testing.T) {
	wanted := platform.Wanted{Platforms: []string{"linux/amd64"}}
	image := manifest(types.OCIManifestSchema1, `{"schemaVersion":2}`)
	same, children, err := wanted.Subset(image)
	require.NoError(t, err)
	require.Empty(t, children)
	require.Equal(t, image, same)
	require.True(t, wanted.Current(image, image.Digest))
	require.False(t, wanted.Current(image, reference.MustDigest(number(1))))
	_, _, err = wanted.Subset(manifest(types.OCIImageIndex, `{"manifests":[{"digest":"x"}]}`))
	require.ErrorIs(t, err, registry.ErrBadManifest)
}

func TestCurrent(t *testing.T) {
	wanted := platform.Wanted{Platforms: []string{"linux/amd64"}}
	source := index(amd64, arm64, ofAMD64)
	subset, _, err := wanted.Subset(source)
	require.NoError(t, err)
	require.True(t, wanted.Current(subset, source.Digest))

	require.False(t, wanted.Current(subset, reference.MustDigest(number(1))), "the source has changed")
	require.False(t, platform.Wanted{}.Current(subset, source.Digest))
	require.False(t, platform.Wanted{Platforms: []string{"linux/arm64"}}.Current(subset, source.Digest))
	require.False(t, platform.Wanted{Platforms: wanted.Platforms, WithoutAttestations: true}.Current(subset, source.Digest))

	require.True(t, platform.Wanted{}.Current(source, source.Digest))
	require.False(t, wanted.Current(source, source.Digest), "all of it is there, and that is too much")

	// In a mirror of a mirror, the annotations of the first one are not mistaken for ours.
	again, _, err := platform.Wanted{WithoutAttestations: true}.Subset(subset)
	require.NoError(t, err)
	require.True(t, platform.Wanted{WithoutAttestations: true}.Current(again, subset.Digest))
	require.False(t, wanted.Current(again, source.Digest))
}

// TestAnySubset checks properties of any index and any choice.
func TestAnySubset(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 6))
	systems := []string{`"platform":{"os":"linux","architecture":"amd64"},`, `"platform":{"os":"linux","architecture":"arm","variant":"v6"},`,
		`"platform":{"os":"linux","architecture":"arm"},`, `"platform":{"os":"windows","architecture":"amd64","os.version":"1"},`, ``}
	choices := []string{"linux/amd64", "linux/arm", "linux/arm/v7", "windows/amd64"}
	for range 500 {
		var entries []string
		for n := range random.IntN(8) {
			if n > 0 && random.IntN(3) == 0 {
				entries = append(entries, attestation(n, random.IntN(n)))
				continue
			}
			entries = append(entries, `{`+systems[random.IntN(len(systems))]+`"size":1, "digest":"`+number(n)+`","n":`+fmt.Sprint(n)+`}`)
		}
		source := index(entries...)
		wanted := platform.Wanted{WithoutAttestations: random.IntN(2) == 0}
		for _, choice := range choices {
			if random.IntN(2) == 0 {
				wanted.Platforms = append(wanted.Platforms, choice)
			}
		}
		subset, wants, err := wanted.Subset(source)
		if err != nil {
			require.ErrorIs(t, err, platform.ErrNoPlatform)
			continue
		}
		have, err := source.Entries()
		require.NoError(t, err)
		kept, err := subset.Entries()
		require.NoError(t, err)
		require.Equal(t, descriptors(kept), descriptors(wants))
		require.True(t, wanted.Current(subset, source.Digest))
		for i, next := 0, 0; i < len(kept); i++ { // kept is a subsequence of have
			for next < len(have) && have[next].Digest != kept[i].Digest {
				next++
			}
			require.Less(t, next, len(have), "%s keeps %s, or not in order", source.Raw, kept[i].Digest)
			require.Equal(t, compact(t, have[next].Raw), compact(t, kept[i].Raw))
		}
		again, _, err := wanted.Subset(subset)
		require.NoError(t, err)
		require.Equal(t, subset, again, "what has been chosen from is all wanted")
	}
}

// TestMirroredSubset: distribution, which refuses incomplete indexes, accepts the subsets of
// OCI indexes and of Docker lists, and skopeo copies from them.
func TestMirroredSubset(t *testing.T) {
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64/v8", "linux/s390x")
	list := registrytest.Index{Docker: true, Images: index.Images}
	for name, test := range map[string]struct {
		index    registrytest.Index
		children int
		preserve bool // whether skopeo 1.9.3 copies the whole index
	}{
		"OCI":    {index, 4, false},
		"Docker": {list, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst, next := registrytest.New(t), registrytest.New(t), registrytest.New(t)
			_, err := src.PushIndex("app", "1", test.index)
			require.NoError(t, err)
			insecure := []string{src.Host(), dst.Host(), next.Host()}
			client := registry.NewClient(registry.Options{Insecure: insecure})
			runner := skopeo.Runner{Insecure: insecure}
			source, destination := src.Host()+"/app", dst.Host()+"/app"
			wanted := platform.Wanted{Platforms: []string{"linux/amd64", "linux/arm64"}}

			whole, err := client.Get(t.Context(), reference.MustRepository(source), reference.MustTag("1"))
			require.NoError(t, err)
			subset, children, err := wanted.Subset(whole)
			require.NoError(t, err)
			require.Len(t, children, test.children)
			require.ErrorIs(t, client.Put(t.Context(), reference.MustRepository(destination), reference.MustTag("1"), subset), registry.ErrRejected, "it would be sparse")
			for _, child := range children {
				require.NoError(t, runner.CopyManifest(t.Context(), reference.MustRepository(source), child.Digest, reference.MustRepository(destination)))
			}
			require.NoError(t, client.Put(t.Context(), reference.MustRepository(destination), reference.MustTag("1"), subset))
			require.NoError(t, dst.Check("app", "1"))

			src.ResetRequests()
			there, err := client.Get(t.Context(), reference.MustRepository(destination), reference.MustTag("1"))
			require.NoError(t, err)
			require.Equal(t, subset, there)
			require.True(t, wanted.Current(there, whole.Digest))
			require.Empty(t, src.Requests())

			run(t, "copy", "--src-tls-verify=false", "--override-os=linux", "--override-arch=arm64",
				"docker://"+destination+":1", "dir:"+t.TempDir())
			if test.preserve {
				run(t, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
					"docker://"+destination+":1", "docker://"+next.Host()+"/app:1")
				copied, err := next.Digest("app", "1")
				require.NoError(t, err)
				require.Equal(t, subset.Digest.String(), copied)
			}
		})
	}
}

func run(t *testing.T, arguments ...string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "skopeo", arguments...).CombinedOutput()
	require.NoError(t, err, string(output))
}
