package registrytest_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

func TestInternetHasRealNames(t *testing.T) {
	internet := registrytest.NewInternet(t, nil, nil)
	for image, r := range map[string]*registrytest.Registry{
		"quay.io/a/b:1": internet.Quay, "registry-1.docker.io/a/b:1": internet.Hub, "a/b:1": internet.Hub,
	} {
		digest, err := r.PushImage("a/b", "1", registrytest.Image{})
		require.NoError(t, err)
		ref, err := name.ParseReference(image)
		require.NoError(t, err)
		descriptor, err := remote.Get(ref, remote.WithTransport(internet.Transport))
		require.NoError(t, err)
		require.Equal(t, digest, descriptor.Digest.String())
		require.NotZero(t, r.Count(registrytest.Kinds(registrytest.KindToken)), "of the token service by its name")
	}
	client := http.Client{Transport: internet.Transport}
	for _, url := range []string{
		"https://quay.io/api/v1/repository/a/b/tag/", "https://hub.docker.com/v2/repositories/a/b/tags",
	} {
		res, err := client.Get(url)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	_, err := client.Get("https://ghcr.io/v2/")
	require.ErrorContains(t, err, "does not have it")

	pem, err := os.ReadFile(internet.CAFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	conn, err := tls.Dial("tcp", internet.Hub.Host(), &tls.Config{RootCAs: roots, ServerName: "hub.docker.com"})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}
