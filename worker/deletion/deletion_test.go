package deletion_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// nested has two slashes: Harbor's API takes the first part as the project.
const nested = "project/team/app"

// world is a registry with a digest under two tags.
type world struct {
	deletion.Deleter
	*registrytest.Registry
	at     reference.Repository
	digest reference.Digest
	sent   int // deletions
}

func newWorld(t *testing.T, quay, harbor bool, options ...registrytest.Option) *world {
	t.Helper()
	w := &world{Registry: registrytest.New(t, options...)}
	w.at = reference.MustRepository(w.Host() + "/" + nested)
	hosts := func(runs bool) []string {
		if runs {
			return []string{w.Host()}
		}
		return nil
	}
	w.Deleter = deletion.Deleter{
		Registry: registry.NewClient(registry.Options{Insecure: []string{w.Host()}, Keychain: robot{}}),
		Hosts:    deletion.NewHosts(hosts(quay), hosts(harbor)),
		During:   func(_ context.Context, send func() error) error { w.sent++; return send() },
	}
	dgst, err := w.PushImage(nested, "1", registrytest.Image{})
	require.NoError(t, err)
	require.NoError(t, w.Registry.Tag(nested, "2", dgst))
	w.digest = reference.MustDigest(dgst)
	return w
}

func (w *world) tag(t *testing.T, tag string) error {
	return w.Deleter.Tag(t.Context(), w.at, reference.MustTag(tag), w.digest)
}

// robot has the credentials of a robot account.
type robot struct{}

func (robot) Find(context.Context, string) (containers.Credential, error) {
	return containers.Credential{Username: "robot$project+mirror", Password: "secret"}, nil
}
func (robot) Forget(string) {}

var harborAPI = []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeHarbor, "immutable"), registrytest.WithHarborAPI(registrytest.BulkAPI{}), registrytest.WithBasicAuth("robot$project+mirror", "secret")}

// TestTag: a tag is deleted alone at registries that can do that.
func TestTag(t *testing.T) {
	for name, w := range map[string]*world{
		"Quay":   newWorld(t, true, false, registrytest.WithDeletion(registrytest.DeletesLikeQuay)),
		"Harbor": newWorld(t, false, true, harborAPI...),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, w.tag(t, "1"))
			require.NoError(t, w.tag(t, "1"), "it is gone")
			tags, err := w.Tags(nested)
			require.NoError(t, err)
			require.Equal(t, []string{"2"}, tags)
			require.NoError(t, w.Check(nested, w.digest.String()))
			require.Equal(t, 2, w.sent)
		})
	}
	w := newWorld(t, false, false)
	require.ErrorIs(t, w.tag(t, "1"), deletion.ErrTogether)
	require.Zero(t, w.sent)
}

// TestHarborTagMoves: Harbor deletes a tag only if it still has the digest.
func TestHarborTagMoves(t *testing.T) {
	w := newWorld(t, false, true, harborAPI...)
	_, err := w.PushImage(nested, "1", registrytest.Image{Version: "new"})
	require.NoError(t, err)
	require.NoError(t, w.tag(t, "1"))
	require.NoError(t, w.Check(nested, "1"))
}

// TestTagRefused: the error quotes the registry's answer, and says how to permit the deletion.
func TestTagRefused(t *testing.T) {
	for name, test := range map[string]struct {
		fault registrytest.Fault
		is    error
		says  string
	}{
		"no permission":   {registrytest.Fault{Status: 403, Body: `{"errors":[{"code":"FORBIDDEN","message":"forbidden"}]}`}, registry.ErrDenied, "needs the permission to delete"},
		"no login":        {registrytest.Fault{Status: 401, Body: `{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized"}]}`}, registry.ErrUnauthorized, "needs the permission to delete"},
		"another API":     {registrytest.Fault{Status: 404, Body: "404 page not found"}, registry.ErrUndeletable, "answered 404 and still has it"},
		"immutable":       {registrytest.Fault{Status: 412, Body: `{"errors":[{"code":"PRECONDITION","message":"the tag 1 configured as immutable, cannot be deleted"}]}`}, registry.ErrRejected, "the tag 1 configured as immutable, cannot be deleted (412); the destination may protect"},
		"read-only":       {registrytest.Fault{Status: 503}, registry.ErrUnavailable, "(503)"},
		"too many":        {registrytest.Fault{Status: 429}, registry.ErrLimited, "(429)"},
		"a page":          {registrytest.Fault{Status: 200, Body: "<html><title>Harbor</title></html>"}, registry.ErrPage, "Harbor"},
		"nothing is done": {registrytest.Fault{Status: 200}, nil, "still has it"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false, true, harborAPI...)
			test.fault.Match = func(r registrytest.Request) bool { return r.Method == http.MethodDelete }
			w.Inject(test.fault)
			err := w.tag(t, "1")
			require.ErrorContains(t, err, test.says)
			require.True(t, test.is == nil || errors.Is(err, test.is), "%v", err)
			require.NotContains(t, err.Error(), "secret")
			require.False(t, strings.Contains(err.Error(), "\n"))
			require.NoError(t, w.Check(nested, "1"))
		})
	}
}

// TestManifest: a manifest is deleted with its tags, and tag by tag at registries such as Artifact
// Registry and Nexus.
func TestManifest(t *testing.T) {
	for name, d := range map[string]registrytest.Deletion{
		"distribution": 0, "Harbor": registrytest.DeletesLikeHarbor, "Artifact Registry": registrytest.DeletesLikeArtifactRegistry, "Nexus": registrytest.DeletesLikeNexus,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false, false, registrytest.WithDeletion(d))
			for _, tag := range []string{"1", "2"} {
				err := w.Deleter.Manifest(t.Context(), w.at, reference.MustTag(tag), w.digest)
				require.True(t, err == nil || errors.Is(err, registry.ErrNotFound), "%v", err)
			}
			require.Empty(t, w.Digests(nested))
			tags, _ := w.Tags(nested)
			require.Empty(t, tags)
		})
	}
	w := newWorld(t, false, false, registrytest.WithDeletion(registrytest.DeletesLikeArtifactRegistry))
	require.ErrorIs(t, w.Deleter.Manifest(t.Context(), w.at, reference.Tag{}, w.digest), registry.ErrTagged)
	require.NoError(t, w.Check(nested, "1"))
}
