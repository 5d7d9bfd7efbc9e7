package registrytest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// artifacts gets a page of Harbor's API.
func artifacts(t *testing.T, r *registrytest.Registry, path, user, password string) (status int, link string, tags [][]string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+"/api/v2.0/projects/"+path, nil)
	require.NoError(t, err)
	if user != "" {
		request.SetBasicAuth(user, password)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, "", nil
	}
	var page []struct {
		Tags []struct{ Name string }
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&page))
	for _, a := range page {
		names := []string{}
		for _, tag := range a.Tags {
			names = append(names, tag.Name)
		}
		tags = append(tags, names)
	}
	return response.StatusCode, response.Header.Get("Link"), tags
}

func TestHarborAPI(t *testing.T) {
	r := registrytest.New(t, registrytest.WithHarborAPI(registrytest.BulkAPI{}))
	for i := range 3 {
		_, err := r.PushImage("p/a/b", fmt.Sprint(i), registrytest.Image{Version: fmt.Sprint(i)})
		require.NoError(t, err)
	}
	digest, err := r.Digest("p/a/b", "0")
	require.NoError(t, err)
	require.NoError(t, r.Tag("p/a/b", "zero", digest))
	_, err = r.PushSignature("p/a/b", digest)
	require.NoError(t, err)
	_, err = r.PushImage("p/a/b", "", registrytest.Image{Version: "untagged"})
	require.NoError(t, err)

	const at = "p/repositories/a%252Fb/artifacts"
	status, link, tags := artifacts(t, r, at+"?q=tags%3D*&with_tag=true&page_size=2", "", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, `</api/v2.0/projects/`+at+`?page=2&page_size=2&q=tags=*&with_tag=true>; rel="next"`, link)
	require.Equal(t, [][]string{{"zero", "0"}, {"2"}}, tags)
	_, link, tags = artifacts(t, r, at+"?q=tags%3D*&page_size=2&page=2", "", "")
	require.Contains(t, link, `rel="prev"`)
	require.NotContains(t, link, `rel="next"`)
	require.Equal(t, [][]string{{"1"}}, tags)
	_, _, tags = artifacts(t, r, at, "", "")
	require.Contains(t, tags, []string{}, "untagged")
	for path, want := range map[string]int{
		at + "?page_size=101": 422, at + "?q=x": 400, "p/repositories/a/b/artifacts": 404,
		"p/repositories/a%2Fb/artifacts": 404, "p/repositories/none/artifacts": 200,
	} {
		status, _, _ := artifacts(t, r, path, "", "")
		require.Equal(t, want, status, path)
	}

	secret := registrytest.New(t, registrytest.WithHarborAPI(registrytest.BulkAPI{}), registrytest.WithTokenAuth(registrytest.TokenAuth{User: "u", Password: "p"}))
	for password, want := range map[string]int{"": 401, "x": 401, "p": 200} {
		status, _, _ := artifacts(t, secret, at, "u", password)
		require.Equal(t, want, status)
	}
	status, _, _ = artifacts(t, registrytest.New(t), at, "", "")
	require.Equal(t, http.StatusNotFound, status)
}
