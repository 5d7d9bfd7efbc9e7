package registrytest_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

// copyByDigest copies a manifest with skopeo, and returns its output.
func copyByDigest(t *testing.T, src, dst *registrytest.Registry, repository, dgst string, flags ...string) (string, error) {
	t.Helper()
	args := append([]string{"copy", "--preserve-digests"}, flags...)
	args = append(args,
		"docker://"+src.Host()+"/"+repository+"@"+dgst,
		"docker://"+dst.Host()+"/"+repository+"@"+dgst)
	output, err := exec.CommandContext(t.Context(), "skopeo", args...).CombinedOutput()
	return string(output), err
}

var plain = []string{"--src-tls-verify=false", "--dest-tls-verify=false"}

func requireCopy(t *testing.T, src, dst *registrytest.Registry, repository, dgst string) {
	t.Helper()
	output, err := copyByDigest(t, src, dst, repository, dgst, plain...)
	require.NoError(t, err, output)
	require.NoError(t, dst.Check(repository, dgst))
}

func TestSkopeoCopiesWhatTheFactoryMakes(t *testing.T) {
	src, dst := registrytest.New(t), registrytest.New(t)
	shared := registrytest.Layer{Seed: "shared", Size: 100 << 10}
	signed, err := src.PushImage("app", "oci", registrytest.Image{Layers: []registrytest.Layer{shared}})
	require.NoError(t, err)
	docker, err := src.PushImage("app", "docker", registrytest.Image{Docker: true, Layers: []registrytest.Layer{shared, {Seed: "x", Size: 1}}})
	require.NoError(t, err)
	zstd, err := src.PushImage("app", registrytest.LongTag, registrytest.Image{Layers: []registrytest.Layer{{Seed: "z", Size: 1000, Zstd: true}}})
	require.NoError(t, err)
	chart, err := src.PushChart("app", "0.1.0")
	require.NoError(t, err)
	signature, err := src.PushSignature("app", signed)
	require.NoError(t, err)
	referrer, err := src.PushReferrer("app", signed, "application/vnd.example.sbom")
	require.NoError(t, err)

	for name, dgst := range map[string]string{
		"OCI": signed, "Docker": docker, "zstd": zstd, "chart": chart, "signature": signature, "referrer": referrer,
	} {
		t.Run(name, func(t *testing.T) { requireCopy(t, src, dst, "app", dgst) })
	}
}

func TestSkopeoCopiesChildrenOfEveryIndex(t *testing.T) {
	src, dst := registrytest.New(t), registrytest.New(t)
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64/v8")
	index.ArtifactType = "application/vnd.example.image"
	dgst, err := src.PushIndex("app", "1", index)
	require.NoError(t, err)
	list, err := src.PushIndex("app", "list", registrytest.Index{Docker: true, Images: index.Images})
	require.NoError(t, err)
	outer, err := src.PushIndex("app", "outer", registrytest.Index{Indexes: []registrytest.Index{index}})
	require.NoError(t, err)

	for _, parent := range []string{dgst, list} {
		children, err := src.Children("app", parent)
		require.NoError(t, err)
		for _, child := range children {
			requireCopy(t, src, dst, "app", child.Digest.String())
		}
	}
	children, err := src.Children("app", dgst)
	require.NoError(t, err)
	require.Len(t, children, 4, "two images and their attestations")
	require.Equal(t, "application/vnd.example.image", children[0].ArtifactType)
	require.Equal(t, "attestation-manifest", children[2].Annotations["vnd.docker.reference.type"])
	require.Equal(t, children[0].Digest.String(), children[2].Annotations["vnd.docker.reference.digest"])
	nested, err := src.Children("app", outer)
	require.NoError(t, err)
	require.Equal(t, dgst, nested[0].Digest.String())
}

func TestIndexesAreValidatedUnlessToldOtherwise(t *testing.T) {
	src := registrytest.New(t)
	dgst, err := src.PushIndex("app", "1", registrytest.MultiPlatform("1", "linux/amd64"))
	require.NoError(t, err)
	index, err := src.Manifest("app", dgst)
	require.NoError(t, err)

	require.Equal(t, http.StatusBadRequest, put(t, registrytest.New(t), "/v2/app/manifests/1", types.OCIImageIndex, index))
	partial := registrytest.New(t, registrytest.WithPartialIndexes())
	require.Equal(t, http.StatusCreated, put(t, partial, "/v2/app/manifests/1", types.OCIImageIndex, index))
	require.ErrorIs(t, partial.Check("app", "1"), registrytest.ErrNotFound)
}

func TestSkopeoOverTLSWithBasicAuth(t *testing.T) {
	src := registrytest.New(t, registrytest.WithTLS("mirror.test"), registrytest.WithBasicAuth("user", "secret"))
	dst := registrytest.New(t)
	dgst, err := src.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	certs := t.TempDir()
	require.NoError(t, src.WriteCA(filepath.Join(certs, "ca.crt")))

	flags := []string{"--src-cert-dir", certs, "--dest-tls-verify=false"}
	_, err = copyByDigest(t, src, dst, "app", dgst, append(flags, "--src-creds", "user:wrong")...)
	require.Error(t, err)
	output, err := copyByDigest(t, src, dst, "app", dgst, append(flags, "--src-creds", "user:secret")...)
	require.NoError(t, err, output)
	require.NoError(t, dst.Check("app", dgst))
}

func TestSkopeoWithTokens(t *testing.T) {
	auth := registrytest.TokenAuth{User: "user", Password: "secret", Anonymous: true}
	src, dst := registrytest.New(t, registrytest.WithTokenAuth(auth)), registrytest.New(t, registrytest.WithTokenAuth(auth))
	dgst, err := src.PushImage("team/app", "1", registrytest.Image{})
	require.NoError(t, err)

	_, err = copyByDigest(t, src, dst, "team/app", dgst, plain...)
	require.Error(t, err, "a stranger may pull only")
	src.ResetRequests()
	output, err := copyByDigest(t, src, dst, "team/app", dgst, append(plain, "--dest-creds", "user:secret")...)
	require.NoError(t, err, output)
	require.NoError(t, dst.Check("team/app", dgst))
	require.Positive(t, src.Count(registrytest.Kinds(registrytest.KindToken)))
	require.Equal(t, 1, src.Pulls(), "it has its token before it asks for the manifest")
}

func TestSkopeoRecorded(t *testing.T) {
	src, dst := registrytest.New(t), registrytest.New(t)
	dgst, err := src.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	requireCopy(t, src, dst, "app", dgst)

	kinds := func(r *registrytest.Registry) map[registrytest.Kind]int {
		counts := map[registrytest.Kind]int{}
		for _, request := range r.Requests() {
			counts[request.Kind]++
			require.NotZero(t, request.Status)
			require.Contains(t, request.UserAgent, "skopeo")
		}
		return counts
	}
	require.Equal(t, map[registrytest.Kind]int{
		registrytest.KindPing: 1, registrytest.KindManifestGet: 1, registrytest.KindBlobGet: 2,
	}, kinds(src))
	require.Equal(t, 1, src.Pulls())
	at := kinds(dst)
	require.Equal(t, 2, at[registrytest.KindBlobUpload])
	require.Equal(t, 1, at[registrytest.KindManifestPut])
	require.Equal(t, 1, dst.Count(registrytest.All(
		registrytest.In("app"), registrytest.Ref(dgst), registrytest.Kinds(registrytest.KindManifestPut), registrytest.Answered(http.StatusCreated))))
	src.ResetRequests()
	require.Empty(t, src.Requests())
}
