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
			_, err := referrers(t.Context(), c, r.Host()+"/"+repository, digest)
			require.ErrorIs(t, err, registry.ErrNoReferrersAPI)
			require.Greater(t, r.Count(registrytest.Kinds(registrytest.KindReferrers)), 1, "a single answer may be wrong")
			r.ResetRequests()
			_, err = referrers(t.Context(), c, r.Host()+"/"+repository, digest)
			require.ErrorIs(t, err, registry.ErrNoReferrersAPI)
			require.Empty(t, r.Requests(), "it is remembered")
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

// TestReferrersOfAMissingSubject: an answer about a subject that does not exist does not mean that the
// registry lacks the API. Quay answers 400, and did answer 404.
func TestReferrersOfAMissingSubject(t *testing.T) {
	const missing = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	for name, fault := range map[string]registrytest.Fault{
		"404": {Status: http.StatusNotFound, Body: `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`},
		"400": {Status: http.StatusBadRequest, Body: `{"errors":[{"code":"MANIFEST_INVALID","message":"manifest invalid"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, registrytest.WithReferrersAPI(0))
			digest, _ := pushImage(t, r, "1")
			referrer, err := r.PushReferrer(repository, digest, "a/1")
			require.NoError(t, err)
			fault.Match = registrytest.All(registrytest.Kinds(registrytest.KindReferrers), registrytest.Ref(missing))
			r.Inject(fault)
			c := insecure(r, nil)
			_, err = referrers(t.Context(), c, r.Host()+"/"+repository, missing)
			require.ErrorIs(t, err, registry.ErrNoReferrersAPI)
			all, err := referrers(t.Context(), c, r.Host()+"/"+repository, digest)
			require.NoError(t, err)
			require.Equal(t, []string{referrer}, all)
		})
	}
}

// TestReferrersAreDenied: if a proxy refuses all requests while the registry is away, or one request, that
// does not mean that the registry lacks the API.
func TestReferrersAreDenied(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"404 to all requests": {Status: http.StatusNotFound, Body: "default backend - 404"},
		"405 to all requests": {Status: http.StatusMethodNotAllowed},
		"once":                {Match: registrytest.Kinds(registrytest.KindReferrers), Status: http.StatusNotFound, Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, registrytest.WithReferrersAPI(0))
			digest, _ := pushImage(t, r, "1")
			referrer, err := r.PushReferrer(repository, digest, "a/1")
			require.NoError(t, err)
			c := insecure(r, nil)
			_, err = c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
			require.NoError(t, err)
			remove := r.Inject(fault)
			if fault.Match == nil {
				_, err = referrers(t.Context(), c, r.Host()+"/"+repository, digest)
				require.ErrorIs(t, err, registry.ErrUnexpected)
				remove()
			}
			all, err := referrers(t.Context(), c, r.Host()+"/"+repository, digest)
			require.NoError(t, err)
			require.Equal(t, []string{referrer}, all)
		})
	}
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
