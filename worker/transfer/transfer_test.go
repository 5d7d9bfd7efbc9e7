package transfer_test

import (
	"context"
	"crypto/sha512"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

const (
	repository     = "osism/tool"
	user, password = "robot", "correct-horse"
	mib            = 1 << 20

	// The tests divide all sizes, because the race detector makes each byte costly.
	shrunk   = 16
	unit     = mib / shrunk
	partSize = 8 * unit
)

var (
	heads   = registrytest.Kinds(registrytest.KindBlobHead)
	gets    = registrytest.Kinds(registrytest.KindBlobGet)
	puts    = registrytest.Kinds(registrytest.KindBlobUpload)
	mounts  = registrytest.Kinds(registrytest.KindBlobMount)
	begins  = method(http.MethodPost)
	patches = method(http.MethodPatch)
)

func method(name string) registrytest.Match {
	return func(r registrytest.Request) bool { return r.Method == name }
}

// pair is a source and a destination that requires tokens.
type pair struct {
	*transfer.Blobs
	from, to *registrytest.Registry
}

type login struct{}

func (login) Find(context.Context, string) (containers.Credential, error) {
	return containers.Credential{Username: user, Password: password}, nil
}
func (login) Forget(string) {}

func newPair(t *testing.T, options ...registrytest.Option) *pair {
	t.Helper()
	p := &pair{
		from: registrytest.New(t, append(options, registrytest.WithDirectory(t.TempDir()))...),
		to:   registrytest.New(t, registrytest.WithDirectory(t.TempDir()), registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password})),
	}
	p.restart()
	return p
}

// newPairTo returns a pair whose destination has these options.
func newPairTo(t *testing.T, options ...registrytest.Option) *pair {
	t.Helper()
	p := &pair{from: registrytest.New(t, registrytest.WithDirectory(t.TempDir())), to: registrytest.New(t, append(options, registrytest.WithDirectory(t.TempDir()))...)}
	p.restart()
	return p
}

// restart forgets everything that was learned about the registries.
func (p *pair) restart() {
	p.Blobs = allowing(p).Shrink(shrunk)
}

func (p *pair) source() reference.Repository {
	return reference.MustRepository(p.from.Host() + "/" + repository)
}

func (p *pair) destination(name string) reference.Repository {
	return reference.MustRepository(p.to.Host() + "/" + name)
}

// push stores a blob of size random bytes at the source.
func (p *pair) push(t *testing.T, size int) (registry.Descriptor, []byte) {
	t.Helper()
	content := random(size)
	digest, err := p.from.PushBlob(repository, content)
	require.NoError(t, err)
	return registry.Descriptor{Digest: reference.MustDigest(digest), Size: int64(size)}, content
}

func random(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(content) // never returns an error
	return content
}

// holds requires that a repository of the destination has the blob.
func (p *pair) holds(t *testing.T, name string, blob registry.Descriptor, content []byte) {
	t.Helper()
	got, err := p.to.Blob(name, blob.Digest.String())
	require.NoError(t, err)
	require.Equal(t, content, got)
}

func (p *pair) lacks(t *testing.T, name string, blob registry.Descriptor) {
	t.Helper()
	_, err := p.to.Blob(name, blob.Digest.String())
	require.ErrorIs(t, err, registrytest.ErrNotFound)
}

// TestCopy: a small blob takes two requests and a large one three. No blob is sent or looked up twice.
func TestCopy(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "small": 1000, "large": 9*mib + 1} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.Blobs = allowing(p)
			blob, content := p.push(t, size)
			for range 2 {
				require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob, blob))
				p.holds(t, "a", blob, content)
				require.Equal(t, 1, p.from.Count(gets))
				require.Equal(t, 1, p.to.Count(heads))
				require.Equal(t, 1, p.to.Count(begins))
				require.Equal(t, map[string]int{"large": 1}[name], p.to.Count(patches))
				require.Equal(t, 1, p.to.Count(puts))
			}
			p.Forget(p.destination("a"), blob)
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			require.Equal(t, 2, p.to.Count(heads))
			require.Equal(t, 1, p.from.Count(gets))
		})
	}
}

// TestUnknownSizes: blobs of old manifests, which state no sizes, are copied.
func TestUnknownSizes(t *testing.T) {
	p := newPair(t)
	for _, size := range []int{0, 1000, 5 * unit} {
		blob, content := p.push(t, size)
		blob.Size = 0
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
		p.holds(t, "a", blob, content)
	}
}

// TestOtherDigests: blobs with digests other than SHA-256 are copied.
func TestOtherDigests(t *testing.T) {
	p := newPair(t)
	content := random(5 * unit)
	blob := registry.Descriptor{Digest: reference.MustDigest(fmt.Sprintf("sha512:%x", sha512.Sum512(content))), Size: int64(len(content))}
	require.NoError(t, p.from.LinkBlob(repository, blob.Digest.String(), content))
	for range 2 {
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
		p.holds(t, "a", blob, content)
		p.restart()
	}
	require.Equal(t, 1, p.from.Count(gets))

	p.from.Inject(registrytest.Fault{Match: gets, Status: http.StatusOK, Body: strings.Repeat("x", len(content))})
	require.ErrorIs(t, p.Send(t.Context(), p.source(), p.destination("b"), blob), registry.ErrDigestMismatch)
	p.lacks(t, "b", blob)
}

// TestOnce: if several images need the same blob at the same time, it is copied once.
func TestOnce(t *testing.T) {
	p := newPair(t)
	blob, content := p.push(t, 5*unit)
	gate := make(chan struct{})
	p.from.Inject(registrytest.Fault{Match: gets, Gate: gate, Times: 1})
	asked := p.from.Notify(gets)
	var group errgroup.Group
	for range 10 {
		group.Go(func() error { return p.Send(t.Context(), p.source(), p.destination("a"), blob) })
	}
	<-asked
	close(gate)
	require.NoError(t, group.Wait())
	p.holds(t, "a", blob, content)
	require.Equal(t, 1, p.from.Count(gets))
	require.Equal(t, 1, p.to.Count(puts))
}

// TestOneFails: if one blob fails, Send ends. Another Send that shares a blob with it continues.
func TestOneFails(t *testing.T) {
	p := newPair(t)
	shared, content := p.push(t, 5*unit)
	missing := registry.Descriptor{Digest: reference.DigestOf([]byte("missing")), Size: 7}
	gate, fails := make(chan struct{}), make(chan struct{})
	p.from.Inject(registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref(shared.Digest.String())), Gate: gate, Times: 1})
	p.from.Inject(registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref(missing.Digest.String())), Gate: fails})
	asked := p.from.Notify(registrytest.Ref(shared.Digest.String()))
	first, second := make(chan error), make(chan error)
	go func() { first <- p.Send(t.Context(), p.source(), p.destination("a"), shared, missing) }()
	<-asked
	go func() { second <- p.Send(t.Context(), p.source(), p.destination("a"), shared) }()
	close(fails)
	require.ErrorIs(t, <-first, registry.ErrNotFound)
	close(gate)
	require.NoError(t, <-second)
	p.holds(t, "a", shared, content)
}

// TestConfigurations: small ones are not looked up, because each image has its own.
func TestConfigurations(t *testing.T) {
	for size, looks := range map[int]int{5000: 0, 1 << 17: 1} {
		p := newPair(t)
		blob, content := p.push(t, size)
		blob.MediaType = string(types.OCIConfigJSON)
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
		p.holds(t, "a", blob, content)
		require.Equal(t, looks, p.to.Count(heads))
		p.restart()
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob), "it may be there")
		p.holds(t, "a", blob, content)
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), blob))
		p.holds(t, "b", blob, content)
	}
}
