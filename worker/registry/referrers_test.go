package registry_test

import (
	"context"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

func referrers(ctx context.Context, c *registry.Client, repository, digest string) ([]string, error) {
	var all []string
	for entry, err := range c.Referrers(ctx, reference.MustRepository(repository), reference.MustDigest(digest)) {
		if err != nil {
			return all, err
		}
		all = append(all, entry.Digest.String())
	}
	return all, nil
}

func TestReferrers(t *testing.T) {
	r := registrytest.New(t, registrytest.WithReferrersAPI(2))
	digest, _ := pushImage(t, r, "1")
	var pushed []string
	for _, artifactType := range []string{"a/1", "a/2", "a/3", "a/4", "a/5"} {
		referrer, err := r.PushReferrer(repository, digest, artifactType)
		require.NoError(t, err)
		pushed = append(pushed, referrer)
	}
	slices.Sort(pushed)
	c := insecure(r, nil)
	source := r.Host() + "/" + repository
	all, err := referrers(t.Context(), c, source, digest)
	require.NoError(t, err)
	require.Equal(t, pushed, all)
	require.Equal(t, 3, r.Count(registrytest.Kinds(registrytest.KindReferrers)))
	require.Zero(t, r.Pulls())
	for entry, err := range c.Referrers(t.Context(), reference.MustRepository(source), reference.MustDigest(digest)) {
		require.NoError(t, err)
		require.Contains(t, string(entry.Raw), `"artifactType":"a/`)
		break
	}
	require.Equal(t, 4, r.Count(registrytest.Kinds(registrytest.KindReferrers)), "only what is used is asked for")

	none, err := referrers(t.Context(), c, source, pushed[0])
	require.NoError(t, err)
	require.Empty(t, none)

	r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindReferrers), Status: http.StatusTooManyRequests})
	_, err = referrers(t.Context(), c, source, digest)
	require.EqualError(t, err, "list referrers of "+source+"@"+digest+": too many requests (429)")
}

func TestNoReferrersAPI(t *testing.T) {
	website := registrytest.Fault{Status: http.StatusOK, Body: "<html>welcome</html>"}
	for name, fault := range map[string]registrytest.Fault{
		"404": {}, "400": {Status: http.StatusBadRequest}, "a website": website,
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t)
			digest, _ := pushImage(t, r, "1")
			if fault.Status != 0 {
				fault.Match = registrytest.Kinds(registrytest.KindReferrers)
				r.Inject(fault)
			}
			c := insecure(r, nil)
			asked := 1
			if name == "a website" {
				asked = 2 // the page may be that of an outage
			}
			for range 3 {
				_, err := referrers(t.Context(), c, r.Host()+"/"+repository, digest)
				require.ErrorIs(t, err, registry.ErrNoReferrersAPI)
			}
			require.Equal(t, asked, r.Count(registrytest.Kinds(registrytest.KindReferrers)), "it is remembered")
		})
	}
	t.Run("of one repository", func(t *testing.T) {
		r := registrytest.New(t, registrytest.WithReferrersAPI(0))
		digest, _ := pushImage(t, r, "1")
		c := insecure(r, nil)
		_, err := referrers(t.Context(), c, r.Host()+"/no/such", digest)
		require.ErrorIs(t, err, registry.ErrNoReferrersAPI)
		_, err = referrers(t.Context(), c, r.Host()+"/"+repository, digest)
		require.NoError(t, err, "it does not speak for the others")
	})
}

func TestWithEntries(t *testing.T) {
	const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	index := registry.Manifest{MediaType: string(types.OCIImageIndex), Raw: []byte(`{
		"schemaVersion": 2, "x": {"b": 1.0, "a": "<"}, "annotations": null,
		"manifests": [{"size": 7, "digest": "` + digest + `", "new": [ 1 ]}]}`)}
	entries, err := index.Entries()
	require.NoError(t, err)
	again, err := index.WithEntries(append(entries, entries...), map[string]string{"k": "&"})
	require.NoError(t, err)
	entry := `{"size":7,"digest":"` + digest + `","new":[1]}`
	require.Equal(t, `{"annotations":{"k":"&"},"manifests":[`+entry+`,`+entry+`],"schemaVersion":2,"x":{"b":1.0,"a":"<"}}`, string(again.Raw))
	index.Raw = []byte(`{"annotations":[],"manifests":[]}`)
	_, err = index.WithEntries(nil, map[string]string{"k": "v"})
	require.ErrorIs(t, err, registry.ErrBadManifest)
}
