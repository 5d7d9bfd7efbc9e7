package mirror_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const user, password = "robot", "correct-horse"

// newLoggedIn returns a pair whose destination requires a user and a password. They are in a file
// that skopeo and the mirror read.
func newLoggedIn(t *testing.T, password string, options ...registrytest.Option) *pair {
	t.Helper()
	from, to := registrytest.New(t), registrytest.New(t, options...)
	path := filepath.Join(t.TempDir(), "auth.json")
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, to.Host()+"/mirror", login), 0o600))
	t.Setenv("REGISTRY_AUTH_FILE", path)
	insecure := []string{from.Host(), to.Host()}
	return &pair{from: from, to: to, Mirror: mirrortest.New(t, registry.NewClient(registry.Options{Insecure: insecure, Keychain: containers.New(cloud.New())}), engine(t, insecure))}
}

// TestDestinationsThatHideWhatIsMissing: a repository counts as missing if the destination refuses to
// show it and allows a push.
func TestDestinationsThatHideWhatIsMissing(t *testing.T) {
	token := registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password})
	basic := registrytest.WithBasicAuth(user, password)
	for name, options := range map[string][]registrytest.Option{
		"quay":           {registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password, CreateOnPush: true})},
		"token 401":      {token, registrytest.WithMissingStatus(http.StatusUnauthorized)},
		"token 403":      {token, registrytest.WithMissingStatus(http.StatusForbidden)},
		"token 400":      {token, registrytest.WithMissingStatus(http.StatusBadRequest)},
		"token 404":      {token, registrytest.WithMissingStatus(http.StatusNotFound)},
		"password 401":   {basic, registrytest.WithMissingStatus(http.StatusUnauthorized)},
		"password 403":   {basic, registrytest.WithMissingStatus(http.StatusForbidden)},
		"open, 403":      {registrytest.WithMissingStatus(http.StatusForbidden)},
		"referrers, 403": {token, registrytest.WithReferrersAPI(0), registrytest.WithMissingStatus(http.StatusForbidden)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newLoggedIn(t, password, options...)
			_, err := p.from.PushImage(repository, "image", registrytest.Image{})
			require.NoError(t, err)
			index, err := p.from.PushIndex(repository, "index", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
			require.NoError(t, err)
			signature, err := p.from.PushReferrer(repository, index, "application/vnd.example.signature")
			require.NoError(t, err)

			have, err := p.Tagged(t.Context(), reference.MustRepository(p.destination()), reference.MustTag("image"))
			require.NoError(t, err)
			require.True(t, have.IsZero())
			current, have, err := p.Current(t.Context(), p.target("image"), reference.MustDigest(index), platform.Wanted{Platforms: []string{"linux/amd64"}})
			require.NoError(t, err)
			require.False(t, current)
			require.True(t, have.IsZero())
			empty, err := p.Empty(t.Context(), reference.MustRepository(p.destination()))
			require.NoError(t, err)
			require.True(t, empty)
			for _, tag := range []string{"image", "index"} {
				_, err := p.mirror(t, tag)
				require.NoError(t, err)
				p.same(t, tag)
				have, err := p.Tagged(t.Context(), reference.MustRepository(p.destination()), reference.MustTag(tag))
				require.NoError(t, err)
				require.False(t, have.IsZero())
			}
			_, err = p.CopyReferrers(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), reference.MustDigest(index), reference.MustDigest(index), nil)
			require.NoError(t, err)
			require.NoError(t, p.to.Check(destination, signature))
			require.Equal(t, 1, p.from.Count(registrytest.All(gets, registrytest.Ref(index))), "nothing is pulled twice")
			if name == "quay" {
				looks := registrytest.Kinds(registrytest.KindManifestHead, registrytest.KindManifestGet, registrytest.KindTags)
				require.Zero(t, p.to.Count(registrytest.All(looks, registrytest.Answered(http.StatusUnauthorized))), "who may push may look")
			}
		})
	}
}

// TestPushesThatAreRefused: a copy fails finally if the destination refuses a push.
func TestPushesThatAreRefused(t *testing.T) {
	for name, status := range map[string]int{"401": http.StatusUnauthorized, "403": http.StatusForbidden} {
		t.Run(name, func(t *testing.T) {
			p := newLoggedIn(t, password, registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password, RefusePush: status}),
				registrytest.WithMissingStatus(status))
			_, err := p.from.PushImage(repository, "image", registrytest.Image{})
			require.NoError(t, err)
			for range 5 {
				have, err := p.Tagged(t.Context(), reference.MustRepository(p.destination()), reference.MustTag("image"))
				require.NoError(t, err, "one may look who may not push")
				require.True(t, have.IsZero())
			}
			require.LessOrEqual(t, p.to.Count(registrytest.Kinds(registrytest.KindToken)), 3, "and is not asked for again each time")
			_, err = p.mirror(t, "image")
			require.Equal(t, outcome.Final, outcome.Classify(err), err)
		})
	}
}

// TestWrongPasswordAtTheDestination: a repository does not count as missing if the password is wrong,
// and nothing is pulled.
func TestWrongPasswordAtTheDestination(t *testing.T) {
	for name, option := range map[string]registrytest.Option{
		"token": registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}),
		"basic": registrytest.WithBasicAuth(user, password),
	} {
		t.Run(name, func(t *testing.T) {
			p := newLoggedIn(t, "wrong", option)
			_, err := p.from.PushImage(repository, "image", registrytest.Image{})
			require.NoError(t, err)
			_, err = p.Tagged(t.Context(), reference.MustRepository(p.destination()), reference.MustTag("image"))
			require.ErrorIs(t, err, registry.ErrUnauthorized)
			require.ErrorContains(t, err, fmt.Sprintf("the registry refused the credentials of entry %q in %s", p.to.Host()+"/mirror", os.Getenv("REGISTRY_AUTH_FILE")))
			_, err = p.mirror(t, "image")
			require.ErrorIs(t, err, registry.ErrUnauthorized)
			require.Zero(t, p.from.Pulls())
		})
	}
}

// TestComparingCreatesNothing: a comparison requests no permission to push, because some registries
// create the repository then.
func TestComparingCreatesNothing(t *testing.T) {
	p := newLoggedIn(t, password, registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password, CreateOnPush: true}))
	p.Mirror = mirror.NewComparing(p.Registry, p.Registry.Comparing(), p.Listing, p.Free)
	have, err := p.Tagged(t.Context(), reference.MustRepository(p.destination()), reference.MustTag("image"))
	require.NoError(t, err)
	require.True(t, have.IsZero())
	empty, err := p.Empty(t.Context(), reference.MustRepository(p.destination()))
	require.NoError(t, err)
	require.True(t, empty)
	require.Empty(t, p.to.Created())
}

// TestReferrersBelowNestedIndexes: referrers of nested indexes and of their images are mirrored.
func TestReferrersBelowNestedIndexes(t *testing.T) {
	p := newPair(t, registrytest.WithReferrersAPI(0))
	top, err := p.from.PushIndex(repository, "index", registrytest.Index{
		Indexes: []registrytest.Index{{Images: []registrytest.Image{{Platform: "linux/amd64"}}}},
	})
	require.NoError(t, err)
	nested, err := p.from.Children(repository, top)
	require.NoError(t, err)
	images, err := p.from.Children(repository, nested[0].Digest.String())
	require.NoError(t, err)
	var signatures []string
	for _, subject := range []string{top, nested[0].Digest.String(), images[0].Digest.String()} {
		signature, err := p.from.PushReferrer(repository, subject, "application/vnd.example.signature")
		require.NoError(t, err)
		signatures = append(signatures, signature)
	}
	_, err = p.mirror(t, "index")
	require.NoError(t, err)
	at := reference.MustDigest(top)
	_, err = p.CopyReferrers(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), at, at, nil)
	require.NoError(t, err)
	for _, signature := range signatures {
		require.NoError(t, p.to.Check(destination, signature))
	}
}
