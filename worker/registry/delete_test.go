package registry_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestDelete: a manifest is deleted with all of its tags, with a token that permits that.
func TestDelete(t *testing.T) {
	bob := &fixed{Credential: containers.Credential{Username: "bob", Password: "hunter2"}}
	for name, option := range map[string]registrytest.Option{
		"token": registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2"}),
		"Quay":  registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2", CreateOnPush: true}),
		"basic": registrytest.WithBasicAuth("bob", "hunter2"),
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, option)
			client, at := insecure(r, bob), reference.MustRepository(r.Host()+"/a")
			for _, version := range []string{"1", "2"} { // the second one with a token that has expired
				digest, err := r.PushImage("a", version, registrytest.Image{Version: version})
				require.NoError(t, err)
				require.NoError(t, r.Tag("a", "alias"+version, digest))
				require.NoError(t, client.Delete(t.Context(), at, reference.MustDigest(digest)))
				tags, err := r.Tags("a")
				require.NoError(t, err)
				require.Empty(t, tags)
				require.ErrorIs(t, client.Delete(t.Context(), at, reference.MustDigest(digest)), registry.ErrNotFound)
				if name != "basic" {
					r.ExpireTokens()
				}
			}
		})
	}
}

// TestDoesNotDelete: the error is ErrUndeletable only if a registry never deletes.
func TestDoesNotDelete(t *testing.T) {
	unsupported := `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`
	for name, test := range map[string]struct {
		fault registrytest.Fault
		is    error
	}{
		"405":             {registrytest.Fault{Status: 405, Body: unsupported}, registry.ErrUndeletable},
		"405 without why": {registrytest.Fault{Status: 405}, registry.ErrUndeletable},
		"400":             {registrytest.Fault{Status: 400, Body: unsupported}, registry.ErrUndeletable},
		"501":             {registrytest.Fault{Status: 501}, registry.ErrUndeletable},
		"401":             {registrytest.Fault{Status: 401}, registry.ErrUnauthorized},
		"403":             {registrytest.Fault{Status: 403}, registry.ErrDenied},
		"429":             {registrytest.Fault{Status: 429}, registry.ErrLimited},
		"503":             {registrytest.Fault{Status: 503}, registry.ErrUnavailable},
		"a page":          {registrytest.Fault{Status: 200, Body: "<!DOCTYPE html><title>Log in</title>"}, registry.ErrPage},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t)
			digest, _ := pushImage(t, r, "1")
			test.fault.Match = func(r registrytest.Request) bool { return r.Method == http.MethodDelete }
			r.Inject(test.fault)
			err := insecure(r, nil).Delete(t.Context(), reference.MustRepository(r.Host()+"/a"), reference.MustDigest(digest))
			require.ErrorIs(t, err, test.is)
			if !errors.Is(test.is, registry.ErrUndeletable) {
				require.NotErrorIs(t, err, registry.ErrUndeletable)
			}
		})
	}
}
