package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

const repository = "osism/deep/path/tool"

// fixed is a keychain with one credential, which can be replaced.
type fixed struct {
	sync.Mutex
	containers.Credential
	next  string // the password after Forget
	fails error
}

func (f *fixed) set(user, password string) {
	f.Lock()
	defer f.Unlock()
	f.Credential = containers.Credential{Username: user, Password: password, Origin: "a test"}
}

func (f *fixed) Find(context.Context, string) (containers.Credential, error) {
	f.Lock()
	defer f.Unlock()
	return f.Credential, f.fails
}

func (f *fixed) Forget(string) {
	f.Lock()
	defer f.Unlock()
	if f.next != "" {
		f.Password, f.next = f.next, ""
	}
}

// insecure returns a client that may use plain HTTP for a registry.
func insecure(r *registrytest.Registry, keychain registry.Keychain) *registry.Client {
	return registry.NewClient(registry.Options{Insecure: []string{r.Host()}, Keychain: keychain, UserAgent: "test"})
}

// pushImage stores a small image and returns its digest and manifest.
func pushImage(t *testing.T, r *registrytest.Registry, tag string) (string, []byte) {
	t.Helper()
	config, err := r.PushBlob(repository, []byte(`{"architecture":"amd64","os":"linux"}`))
	require.NoError(t, err)
	layer, err := r.PushBlob(repository, []byte("layer of "+tag))
	require.NoError(t, err)
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,`+
		`"config":{"mediaType":%q,"digest":%q,"size":37},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		types.OCIManifestSchema1, types.OCIConfigJSON, config, types.OCILayer, layer, len("layer of "+tag))
	digest, err := r.PushManifest(repository, tag, types.OCIManifestSchema1, raw)
	require.NoError(t, err)
	return digest, raw
}

func tags(ctx context.Context, c *registry.Client, repository string) ([]string, error) {
	var all []string
	for tag, err := range c.Tags(ctx, reference.MustRepository(repository)) {
		if err != nil {
			return all, err
		}
		all = append(all, tag.String())
	}
	return all, nil
}

func TestHeadGetPutTags(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTagPage(2),
		registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2", Anonymous: true}))
	keychain := new(fixed)
	keychain.set("bob", "hunter2")
	c := insecure(r, keychain)
	ctx := t.Context()
	digest, raw := pushImage(t, r, "1.0")
	source := r.Host() + "/" + repository

	head, err := c.Head(ctx, reference.MustRepository(source), reference.MustTag("1.0"))
	require.NoError(t, err)
	require.Equal(t, registry.Descriptor{
		Digest: reference.MustDigest(digest), MediaType: string(types.OCIManifestSchema1), Size: int64(len(raw)),
	}, head)
	require.Zero(t, r.Pulls())

	m, err := c.Get(ctx, reference.MustRepository(source), reference.MustDigest(digest))
	require.NoError(t, err)
	require.Equal(t, registry.Manifest{Raw: raw, MediaType: string(types.OCIManifestSchema1), Digest: reference.MustDigest(digest)}, m)
	require.EqualValues(t, 37+len("layer of 1.0"), m.ContentSize())
	require.False(t, m.IsIndex())

	for _, tag := range []string{"1.1", "1.2", "1.3", "latest"} {
		require.NoError(t, c.Put(ctx, reference.MustRepository(source), reference.MustTag(tag), m))
		stored, err := r.Digest(repository, tag)
		require.NoError(t, err)
		require.Equal(t, digest, stored)
	}
	all, err := tags(ctx, c, source)
	require.NoError(t, err)
	require.Equal(t, []string{"1.0", "1.1", "1.2", "1.3", "latest"}, all)

	// A token to pull and a token to push.
	require.Equal(t, 2, r.Count(registrytest.Kinds(registrytest.KindToken)))
	r.ExpireTokens()
	require.NoError(t, c.Put(ctx, reference.MustRepository(source), reference.MustTag("after"), m), "the body is sent again with the new token")
	require.Equal(t, 3, r.Count(registrytest.Kinds(registrytest.KindToken)))
	require.Contains(t, r.Requests()[0].UserAgent, "test")
}

func TestHeadFallsBackToGet(t *testing.T) {
	refuses := func(status int) func(t *testing.T) *registrytest.Registry {
		return func(t *testing.T) *registrytest.Registry {
			r := registrytest.New(t)
			r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestHead), Status: status})
			return r
		}
	}
	for name, start := range map[string]func(t *testing.T) *registrytest.Registry{
		"no digest": func(t *testing.T) *registrytest.Registry {
			return registrytest.New(t, registrytest.WithoutDigestHeader())
		},
		"400": refuses(http.StatusBadRequest),
		"403": refuses(http.StatusForbidden),
		"500": refuses(http.StatusInternalServerError),
		"405": refuses(http.StatusMethodNotAllowed),
		"406": refuses(http.StatusNotAcceptable),
		"501": refuses(http.StatusNotImplemented),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			digest, raw := pushImage(t, r, "1")
			head, err := insecure(r, nil).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
			require.NoError(t, err)
			require.Equal(t, registry.Descriptor{
				Digest: reference.MustDigest(digest), MediaType: string(types.OCIManifestSchema1), Size: int64(len(raw)), Pulled: true,
			}, head)
		})
	}
}

// TestDeniedHead: if HEAD fails and GET succeeds, the guard, which may close the registry, does not
// get the error. If GET fails, too, it gets that of HEAD.
func TestDeniedHead(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusInternalServerError, http.StatusNotImplemented} {
		r := registrytest.New(t)
		digest, _ := pushImage(t, r, "1")
		r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestHead), Status: status})
		var heard []error
		c := registry.NewClient(registry.Options{Insecure: []string{r.Host()}, Guard: func(_ context.Context, _ registry.Request, send func() error) error {
			err := send()
			heard = append(heard, err)
			return err
		}})
		found, err := c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		require.NoError(t, err)
		require.Equal(t, digest, found.Digest.String())
		require.Equal(t, []error{nil}, heard)
		_, err = c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("2"))
		require.ErrorIs(t, err, registry.ErrNotFound)
		require.ErrorIs(t, heard[1], registry.ErrNotFound)
		r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestGet), Status: http.StatusBadGateway})
		_, err = c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		require.Error(t, err)
		require.ErrorContains(t, heard[2], strconv.Itoa(status))
	}
}

// TestFindByGET: if HEAD answers "not found", a GET decides, for this and all later requests to the
// registry.
func TestFindByGET(t *testing.T) {
	heads := registrytest.Kinds(registrytest.KindManifestHead)
	for name, start := range map[string]func(t *testing.T) *registrytest.Registry{
		"always": func(t *testing.T) *registrytest.Registry {
			r := registrytest.New(t)
			r.Inject(registrytest.Fault{Match: heads, Status: http.StatusNotFound})
			return r
		},
		"until a GET": func(t *testing.T) *registrytest.Registry {
			return registrytest.New(t, registrytest.WithHeadAfterGet())
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			c, source := insecure(r, nil), r.Host()+"/"+repository
			one, _ := pushImage(t, r, "1")
			two, _ := pushImage(t, r, "2")
			_, err := c.Head(t.Context(), reference.MustRepository(source), reference.MustTag("2"))
			require.ErrorIs(t, err, registry.ErrNotFound)
			require.Zero(t, r.Pulls())

			found, err := c.Find(t.Context(), reference.MustRepository(source), reference.MustTag("1"))
			require.NoError(t, err)
			require.Equal(t, one, found.Digest.String())
			require.True(t, found.Pulled)
			found, err = c.Head(t.Context(), reference.MustRepository(source), reference.MustTag("2"))
			require.NoError(t, err)
			require.Equal(t, two, found.Digest.String())
			require.Equal(t, 2, r.Pulls())

			for _, look := range []func(context.Context, reference.Repository, reference.TagOrDigest) (registry.Descriptor, error){c.Find, c.Head} {
				none, err := look(t.Context(), reference.MustRepository(source), reference.MustTag("none"))
				require.ErrorIs(t, err, registry.ErrNotFound)
				require.Equal(t, registry.Descriptor{Pulled: true}, none, "the GET has been made")
			}
		})
	}
}

// TestLookBelievesHEAD: a HEAD that answers "not found" is believed only if the registry has
// answered another HEAD with a manifest, and has never denied one that it has.
func TestLookBelievesHEAD(t *testing.T) {
	clock := time.Now()
	r := registrytest.New(t)
	c := registry.NewClient(registry.Options{Insecure: []string{r.Host()}, Clock: func() time.Time { return clock }}).Writing()
	pushImage(t, r, "1")
	pushImage(t, r, "2")
	look := func(tag string, gets int) error {
		r.ResetRequests()
		_, err := c.Look(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag(tag))
		require.Equal(t, gets, r.Pulls(), tag)
		return err
	}
	require.ErrorIs(t, look("none", 1), registry.ErrNotFound)
	require.ErrorIs(t, look("none", 1), registry.ErrNotFound, "two that agree are no proof")
	require.NoError(t, look("1", 0))
	require.ErrorIs(t, look("none", 0), registry.ErrNotFound)
	_, err := c.Find(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("none"))
	require.ErrorIs(t, err, registry.ErrNotFound)
	require.Equal(t, 1, r.Pulls(), "others are certain")

	clock = clock.Add(time.Hour)
	r.Inject(registrytest.Fault{Match: registrytest.All(registrytest.Kinds(registrytest.KindManifestHead), registrytest.Ref("2")), Status: http.StatusNotFound})
	require.NoError(t, look("2", 1))
	require.NoError(t, look("1", 0))
	require.ErrorIs(t, look("none", 1), registry.ErrNotFound)
}

func TestLimitedAtTheHandshake(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
	r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindToken), Status: 429,
		Header: http.Header{"Retry-After": {"9"}}})
	_, err := insecure(r, nil).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorIs(t, err, registry.ErrLimited)
	var named *registry.Error
	require.ErrorAs(t, err, &named)
	require.Equal(t, 9*time.Second, named.RetryAfter)
	require.Equal(t, 429, named.Status)
}

func TestCancelled(t *testing.T) {
	r := registrytest.New(t)
	r.Inject(registrytest.Fault{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	asked := r.Notify(registrytest.Any)
	go func() { <-asked; cancel() }()
	_, err := insecure(r, nil).Head(ctx, reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorIs(t, err, context.Canceled)
}

func TestPlainHTTPIsRefused(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBasicAuth("bob", "hunter2"))
	keychain := new(fixed)
	keychain.set("bob", "hunter2")
	_, err := registry.NewClient(registry.Options{Keychain: keychain}).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.EqualError(t, err, "look up "+r.Host()+"/"+repository+":1: "+r.Host()+
		" speaks plain HTTP; add it to INSECURE_REGISTRIES to allow that")
	require.ErrorIs(t, err, registry.ErrPlainHTTP)
	require.Empty(t, r.Requests(), "nothing was sent in clear")

	r.Stop()
	_, err = registry.NewClient(registry.Options{}).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.ErrorIs(t, err, registry.ErrUnavailable)
	require.NotErrorIs(t, err, registry.ErrPlainHTTP)
	require.ErrorContains(t, err, "connection refused")
}

func TestCertificates(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTLS())
	digest, _ := pushImage(t, r, "1")
	source := r.Host() + "/" + repository
	_, err := registry.NewClient(registry.Options{}).Head(t.Context(), reference.MustRepository(source), reference.MustTag("1"))
	require.ErrorIs(t, err, registry.ErrCertificate)
	require.ErrorContains(t, err, "add "+r.Host()+" to INSECURE_REGISTRIES")

	head, err := insecure(r, nil).Head(t.Context(), reference.MustRepository(source), reference.MustTag("1"))
	require.NoError(t, err)
	require.Equal(t, digest, head.Digest.String())
	all, err := tags(t.Context(), insecure(r, nil), source)
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, all)
}

// TestDockerHub: requests about docker.io go to registry-1.docker.io.
func TestDockerHub(t *testing.T) {
	var asked []string
	var named string
	network := roundTripper(func(request *http.Request) (*http.Response, error) {
		asked = append(asked, request.URL.String())
		return nil, http.ErrServerClosed
	})
	keychain := keychainFunc(func(repository string) containers.Credential {
		named = repository
		return containers.Credential{}
	})
	c := registry.NewClient(registry.Options{Transport: network, Keychain: keychain})
	_, err := c.Head(t.Context(), reference.MustRepository("docker.io/library/nginx"), reference.MustTag("1"))
	require.Error(t, err)
	require.Equal(t, "index.docker.io/library/nginx", named, "where docker login keeps credentials")
	require.Equal(t, []string{"https://registry-1.docker.io/v2/"}, asked)
}

// TestUnsentRequest: if the network below the client does not send a request, the error does not blame
// the registry.
func TestUnsentRequest(t *testing.T) {
	for _, reason := range []error{
		fmt.Errorf("%w: %w", budget.ErrBroker, context.DeadlineExceeded), budget.ErrLate, &budget.SpentError{Registry: "a registry", Reason: "its budget is spent"},
	} {
		network := roundTripper(func(*http.Request) (*http.Response, error) { return nil, reason })
		_, err := registry.NewClient(registry.Options{Transport: network}).Head(t.Context(), reference.MustRepository("registry.example.com/app"), reference.MustTag("1"))
		require.EqualError(t, err, "look up registry.example.com/app:1: "+reason.Error())
		require.NotErrorIs(t, err, registry.ErrUnavailable)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

type keychainFunc func(repository string) containers.Credential

func (f keychainFunc) Find(_ context.Context, repository string) (containers.Credential, error) {
	return f(repository), nil
}
func (f keychainFunc) Forget(string) {}

func TestChildren(t *testing.T) {
	const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	index := registry.Manifest{MediaType: string(types.DockerManifestList), Raw: []byte(`{"manifests":[
		{"mediaType":"` + string(types.DockerManifestSchema2) + `","digest":"` + digest + `","size":7,
		 "platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
		{"mediaType":"` + string(types.OCIImageIndex) + `","digest":"` + digest + `","size":8}]}`)}
	children, err := index.Children()
	require.NoError(t, err)
	require.Equal(t, []registry.Descriptor{
		{Digest: reference.MustDigest(digest), MediaType: string(types.DockerManifestSchema2), Size: 7, Platform: "linux/arm64/v8"},
		{Digest: reference.MustDigest(digest), MediaType: string(types.OCIImageIndex), Size: 8},
	}, children)

	index.Raw = []byte(`{"manifests":[{"digest":"sha256:../../x"}]}`)
	_, err = index.Children()
	require.ErrorIs(t, err, registry.ErrBadManifest)
}

func TestParallelCallersShareOneHandshake(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
	pushImage(t, r, "1")
	c := insecure(r, nil)
	var group errgroup.Group
	for range 20 {
		group.Go(func() error {
			_, err := c.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, 1, r.Count(registrytest.Kinds(registrytest.KindToken)))
}
