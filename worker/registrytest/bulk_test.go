package registrytest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

// object requests a JSON object.
func object(t *testing.T, r *registrytest.Registry, path string, status int) map[string]any {
	t.Helper()
	res, body := get(t, r, path)
	require.Equal(t, status, res.StatusCode, body)
	var answer map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &answer))
	return answer
}

// field returns one field of each object in a list.
func field(list any, name string) []any {
	var all []any
	for _, one := range list.([]any) {
		all = append(all, one.(map[string]any)[name])
	}
	return all
}

func TestQuayAPI(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := registrytest.New(t, registrytest.WithClock(func() time.Time { return now }),
		registrytest.WithQuayAPI(registrytest.BulkAPI{}))
	for _, version := range []string{"1", "2", "3"} {
		_, err := r.PushImage("a/b/c", version, registrytest.Image{Version: version})
		require.NoError(t, err)
	}
	index, err := r.PushIndex("a/b/c", "2", registrytest.MultiPlatform("2", "linux/amd64"))
	require.NoError(t, err)
	require.NoError(t, r.Untag("a/b/c", "1"))
	require.True(t, r.ExpireTag("a/b/c", "3", now.Add(time.Hour)))
	raw, err := r.Manifest("a/b/c", "3")
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, put(t, r, "/v2/a/b/c/manifests/4", types.OCIManifestSchema1, raw))

	const path = "/api/v1/repository/a/b/c/tag/"
	active := object(t, r, path+"?onlyActiveTags=true", http.StatusOK)
	require.Equal(t, false, active["has_additional"])
	require.Equal(t, []any{"4", "2", "3"}, field(active["tags"], "name"), "the most recent first")
	require.Equal(t, map[string]any{
		"name": "2", "manifest_digest": index, "is_manifest_list": true, "reversion": false, "size": nil,
		"start_ts": float64(now.Unix()), "last_modified": "Fri, 02 Jan 2026 03:04:05 -0000",
	}, active["tags"].([]any)[1])
	require.Equal(t, []any{nil, nil, float64(now.Add(time.Hour).Unix())}, field(active["tags"], "end_ts"))

	all := object(t, r, path, http.StatusOK)
	require.Equal(t, []any{"4", "2", "3", "2", "1"}, field(all["tags"], "name"), "with the dead ones")
	page := object(t, r, path+"?limit=2&page=1", http.StatusOK)
	require.Equal(t, true, page["has_additional"])
	require.Len(t, page["tags"], 2)
	past := object(t, r, path+"?page=9", http.StatusOK)
	require.Empty(t, past["tags"])
	object(t, r, "/api/v1/repository/a/none/tag/", http.StatusUnauthorized)

	now = now.Add(2 * time.Hour)
	active = object(t, r, path+"?onlyActiveTags=true", http.StatusOK)
	require.Equal(t, []any{"4", "2"}, field(active["tags"], "name"), "3 has ended")
	require.Equal(t, 1, r.Count(registrytest.All(registrytest.Kinds(registrytest.KindBulkList),
		registrytest.In("a/b/c"), registrytest.Page(9))))
}

func TestHubAPI(t *testing.T) {
	r := registrytest.New(t, registrytest.WithHubAPI(registrytest.BulkAPI{
		Inactive: []string{"1"}, Null: []string{"3"}, WithoutDigest: []string{"2"}, AnonymousTags: 4,
	}))
	for _, version := range []string{"1", "2", "3"} {
		_, err := r.PushIndex("a/b", version, registrytest.MultiPlatform(version, "windows/amd64", "linux/arm64/v8"))
		require.NoError(t, err)
	}
	const path = "/v2/namespaces/a/repositories/b/tags"
	answer := object(t, r, path, http.StatusOK)
	require.Equal(t, float64(3), answer["count"])
	require.Nil(t, answer["next"])
	require.Equal(t, []any{"3", "2", "1"}, field(answer["results"], "name"))
	require.Equal(t, []any{nil, "active", "inactive"}, field(answer["results"], "tag_status"))
	require.Equal(t, []any{nil, string(types.OCIImageIndex), string(types.OCIImageIndex)}, field(answer["results"], "media_type"))
	require.Nil(t, field(answer["results"], "digest")[1])
	require.NotNil(t, field(answer["results"], "digest")[2])
	images := field(answer["results"], "images")[2]
	require.Equal(t, []any{"windows", "linux", "unknown", "unknown"}, field(images, "os"))
	require.Equal(t, []any{nil, "v8", nil, nil}, field(images, "variant"))

	page := object(t, r, "/v2/repositories/a/b/tags/?page=1&page_size=2", http.StatusOK)
	require.Len(t, page["results"], 2)
	require.NotNil(t, page["next"])
	require.Contains(t, object(t, r, path+"?page=3&page_size=2", http.StatusForbidden)["message"], "sign in")
	object(t, r, path+"?page=3&page_size=1", http.StatusOK)
	object(t, r, path+"?page=4&page_size=1", http.StatusNotFound)
	object(t, r, "/v2/namespaces/a/repositories/none/tags", http.StatusNotFound)
}

func TestBulkAPIsKeepPrivateRepositories(t *testing.T) {
	for _, auth := range []registrytest.Option{
		registrytest.WithBasicAuth("bob", "hunter2"),
		registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2"}),
	} {
		r := registrytest.New(t, auth,
			registrytest.WithQuayAPI(registrytest.BulkAPI{}), registrytest.WithHubAPI(registrytest.BulkAPI{}))
		_, err := r.PushImage("a/b", "1", registrytest.Image{})
		require.NoError(t, err)
		object(t, r, "/api/v1/repository/a/b/tag/", http.StatusUnauthorized)
		object(t, r, "/v2/repositories/a/b/tags", http.StatusNotFound)
	}
}

func TestBulkAPIOfSyntheticRepository(t *testing.T) {
	r := registrytest.New(t, registrytest.WithQuayAPI(registrytest.BulkAPI{}))
	require.NoError(t, r.AddSynthetic("a/b", registrytest.Synthetic{Tags: registrytest.Numbered("%03d", 150), Distinct: 7}))
	page := object(t, r, "/api/v1/repository/a/b/tag/?limit=500&page=2", http.StatusOK)
	require.Len(t, page["tags"], 50)
	for i, name := range field(page["tags"], "name") {
		require.Equal(t, fmt.Sprintf("%03d", 49-i), name)
		want, err := r.Digest("a/b", name.(string))
		require.NoError(t, err)
		require.Equal(t, want, field(page["tags"], "manifest_digest")[i])
	}
}

// TestWithoutBulkAPI: without the option, the OCI API answers these paths.
func TestWithoutBulkAPI(t *testing.T) {
	r := registrytest.New(t)
	for _, path := range []string{"/api/v1/repository/a/b/tag/", "/v2/repositories/a/b/tags"} {
		res, _ := get(t, r, path)
		require.Equal(t, http.StatusNotFound, res.StatusCode)
	}
}
