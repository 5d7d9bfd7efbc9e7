package registrytest_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

func listed(t *testing.T, body string) []v1.Descriptor {
	t.Helper()
	var index v1.IndexManifest
	require.NoError(t, json.Unmarshal([]byte(body), &index))
	require.NotNil(t, index.Manifests, "empty, not null")
	return index.Manifests
}

func TestReferrersAPI(t *testing.T) {
	r := registrytest.New(t, registrytest.WithReferrersAPI(1))
	image, err := r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	sbom, err := r.PushReferrer("app", image, "a/sbom")
	require.NoError(t, err)
	_, err = r.PushReferrer("app", image, "a/signature")
	require.NoError(t, err)
	tags, err := r.Tags("app")
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, tags, "no fallback")

	res, body := get(t, r, "/v2/app/referrers/"+image)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, string(types.OCIImageIndex), res.Header.Get("Content-Type"))
	require.Len(t, listed(t, body), 1)
	require.Equal(t, `</v2/app/referrers/`+image+`?from=1>; rel="next"`, res.Header.Get("Link"))
	res, body = get(t, r, "/v2/app/referrers/"+image+"?from=1")
	require.Len(t, listed(t, body), 1)
	require.Empty(t, res.Header.Get("Link"))

	res, body = get(t, r, "/v2/app/referrers/"+image+"?artifactType=a/sbom")
	require.Equal(t, "artifactType", res.Header.Get("OCI-Filters-Applied"))
	require.Equal(t, sbom, listed(t, body)[0].Digest.String())
	_, body = get(t, r, "/v2/app/referrers/"+sbom)
	require.Empty(t, listed(t, body))
	for path, status := range map[string]int{
		"/v2/app/referrers/x": http.StatusBadRequest, "/v2/none/referrers/" + image: http.StatusNotFound,
	} {
		res, _ = get(t, r, path)
		require.Equal(t, status, res.StatusCode, path)
	}
	res, _ = get(t, registrytest.New(t), "/v2/app/referrers/"+image)
	require.Equal(t, http.StatusNotFound, res.StatusCode)

	artifact, err := r.Manifest("app", sbom)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.URL()+"/v2/app/manifests/"+sbom, bytes.NewReader(artifact))
	require.NoError(t, err)
	req.Header.Set("Content-Type", string(types.OCIManifestSchema1))
	answer, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, image, answer.Header.Get("OCI-Subject"))
}
