package skopeo_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/child"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// pulled returns an image to copy from one registry to another, with requests by this process.
func pulled(t *testing.T, from, to *registrytest.Registry, digest string) skopeo.Image {
	t.Helper()
	client := registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host()}, UserAgent: "this process"})
	return imageOf(t, client, transfer.New(client), reference.MustRepository(from.Host()+"/"+source), reference.MustRepository(to.Host()+"/"+destination), digest)
}

// imageOf returns an image that is copied by these blobs.
func imageOf(t *testing.T, client *registry.Client, blobs *transfer.Blobs, from, to reference.Repository, digest string) skopeo.Image {
	t.Helper()
	manifest, err := client.Get(t.Context(), from, reference.MustDigest(digest))
	require.NoError(t, err)
	return skopeo.Image{
		Source: from, Destination: to, Manifest: manifest,
		Open: func(ctx context.Context, blob registry.Descriptor) (skopeo.Blob, error) {
			return blobs.Open(ctx, from, blob)
		},
		Claim: func(ctx context.Context, blob registry.Descriptor) (func(), error) {
			return blobs.Claim(ctx, from, to, blob, false)
		},
		Put: func(ctx context.Context, blob registry.Descriptor, content []byte) error {
			return blobs.Put(ctx, to, blob, content)
		},
		Upload: func(ctx context.Context, content io.Reader, size int64) (skopeo.Upload, error) {
			return blobs.Begin(ctx, to, content, size)
		},
	}
}

// has requires that the destination has all blobs of an image.
func has(t *testing.T, to *registrytest.Registry, image skopeo.Image) {
	t.Helper()
	require.NoError(t, registry.NewClient(registry.Options{Insecure: []string{to.Host()}}).Writing().Put(t.Context(), image.Destination, image.Manifest.Digest, image.Manifest))
	require.NoError(t, to.Check(destination, image.Manifest.Digest.String()))
}

// TestCopyImage: registries get each request once, from this process and not through the
// environment's proxy. Blobs that the destination has are not read.
func TestCopyImage(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	t.Setenv("NO_PROXY", "")
	from, to, _, r := pair(t)
	layers := []registrytest.Layer{{Seed: "a", Size: large}, {Seed: "b", Size: small}}
	digest, err := from.PushImage(source, "2", registrytest.Image{Layers: layers})
	require.NoError(t, err)
	image := pulled(t, from, to, digest)
	from.ResetRequests()
	require.NoError(t, r.CopyImage(t.Context(), image))
	require.Zero(t, from.Pulls())
	require.Equal(t, 3, from.Count(registrytest.Kinds(registrytest.KindBlobGet)))
	require.Equal(t, 2, to.Count(registrytest.Kinds(registrytest.KindBlobHead)), "the layers, once")
	for _, request := range append(from.Requests(), to.Requests()...) {
		require.Contains(t, request.UserAgent, "this process", request.Path)
	}
	has(t, to, image)

	digest, err = from.PushImage(source, "3", registrytest.Image{Version: "3", Layers: layers})
	require.NoError(t, err)
	image = pulled(t, from, to, digest)
	from.ResetRequests()
	require.NoError(t, r.CopyImage(t.Context(), image))
	require.Equal(t, 1, from.Count(registrytest.Kinds(registrytest.KindBlobGet)), "the configuration")
	has(t, to, image)
}

// part is a blob of which only the beginning can be read.
type part struct {
	io.Reader
	size int64
}

func (p part) Size() int64 { return p.size }
func (part) Close() error  { return nil }

// broken is a reader that fails.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// sent is an upload whose end fails.
type sent struct{ err error }

func (s sent) End(context.Context, reference.Digest) error { return s.err }

// waiting is a process that sends no request and does not end by itself.
type waiting struct {
	seen       string // the folder with its arguments, environment and files
	host, auth string // what it needs for requests
	ended      chan error
}

// startWaiting starts a waiting process that is to copy an image.
func startWaiting(ctx context.Context, t *testing.T, image skopeo.Image) *waiting {
	t.Helper()
	p := &waiting{seen: t.TempDir(), ended: make(chan error, 1)}
	r := script(t, `echo "$@" >`+p.seen+`/arguments
env >`+p.seen+`/environment
for a; do case "$a" in
--registries-conf=*) cat "${a#*=}" >`+p.seen+`/conf;;
--authfile=*) cat "${a#*=}" >`+p.seen+`/auth;;
esac; done
touch `+p.seen+`/ready; sleep 600`)
	go func() { p.ended <- r.CopyImage(ctx, image) }()
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(p.seen, "ready")); return err == nil }, deadline, time.Millisecond)
	p.host = regexp.MustCompile(`location = "(127\.0\.0\.1:\d+)/source"`).FindStringSubmatch(p.read(t, "conf"))[1]
	p.auth = regexp.MustCompile(`"auth":"([^"]+)"`).FindStringSubmatch(p.read(t, "auth"))[1]
	return p
}

func (p *waiting) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.seen, name))
	require.NoError(t, err)
	return string(text)
}

// send sends a request instead of the process.
func (p *waiting) send(t *testing.T, method, path, authorization string) (*http.Response, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.host+path, nil)
	require.NoError(t, err)
	if authorization != "" {
		request.Header.Set("Authorization", "Basic "+authorization)
	}
	return http.DefaultClient.Do(request)
}

// TestRequestsThatFail: CopyImage returns the request's error at once; skopeo does not retry.
func TestRequestsThatFail(t *testing.T) {
	failed := errors.New("the request has failed")
	cut := func(size int64) func(context.Context, registry.Descriptor) (skopeo.Blob, error) {
		return func(context.Context, registry.Descriptor) (skopeo.Blob, error) {
			return part{io.MultiReader(strings.NewReader("begin"), broken{failed}), size}, nil
		}
	}
	for name, fault := range map[string]func(*skopeo.Image){
		"no answer": func(i *skopeo.Image) {
			i.Open = func(context.Context, registry.Descriptor) (skopeo.Blob, error) { return nil, failed }
		},
		"a cut":                 func(i *skopeo.Image) { i.Open = cut(100) },
		"a cut of unknown size": func(i *skopeo.Image) { i.Open = cut(-1) },
		"a look": func(i *skopeo.Image) {
			i.Claim = func(context.Context, registry.Descriptor) (func(), error) { return nil, failed }
		},
		"a small upload": func(i *skopeo.Image) {
			i.Put = func(context.Context, registry.Descriptor, []byte) error { return failed }
		},
		"an upload": func(i *skopeo.Image) {
			i.Upload = func(context.Context, io.Reader, int64) (skopeo.Upload, error) { return nil, failed }
		},
		"its end": func(i *skopeo.Image) {
			i.Upload = func(_ context.Context, content io.Reader, _ int64) (skopeo.Upload, error) {
				_, err := io.Copy(io.Discard, content)
				return sent{failed}, err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to, _, r := pair(t)
			digest, err := from.PushImage(source, "2", registrytest.Image{Layers: []registrytest.Layer{{Seed: "large", Size: large}, {Seed: "small", Size: small}}})
			require.NoError(t, err)
			image := pulled(t, from, to, digest)
			fault(&image)
			require.Equal(t, failed, r.CopyImage(t.Context(), image))
		})
	}
}

// TestFailureEndsTheProcess: after a request that failed, CopyImage ends the process, whatever that
// does with the answer.
func TestFailureEndsTheProcess(t *testing.T) {
	from, to, digest, _ := pair(t)
	image := pulled(t, from, to, digest)
	failed := errors.New("the request has failed")
	image.Open = func(context.Context, registry.Descriptor) (skopeo.Blob, error) { return nil, failed }
	p := startWaiting(t.Context(), t, image)
	response, err := p.send(t, http.MethodGet, "/v2/source/manifests/"+digest, p.auth)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	blobs, err := image.Manifest.Blobs()
	require.NoError(t, err)
	_, err = p.send(t, http.MethodGet, "/v2/source/blobs/"+blobs[0].Digest.String(), p.auth) //nolint:bodyclose // no answer
	require.Error(t, err)
	select {
	case err := <-p.ended:
		require.Equal(t, failed, err)
	case <-time.After(deadline):
		require.Fail(t, "the process was not ended")
	}
}

// TestNoManifestOfAnotherDigest: a copy succeeds only if skopeo has put the manifest unchanged.
func TestNoManifestOfAnotherDigest(t *testing.T) {
	from, to, digest, _ := pair(t)
	err := script(t, "exit 0").CopyImage(t.Context(), pulled(t, from, to, digest))
	require.EqualError(t, err, "skopeo exited without an error, but has not put the manifest")
}

// TestSilenceOfRegistries: a process that waits for this one has not stalled; another silent process
// has.
func TestSilenceOfRegistries(t *testing.T) {
	t.Parallel()
	from, to, digest, r := pair(t)
	r.Stall = stall
	image := pulled(t, from, to, digest)
	open, silent := image.Open, make(chan struct{})
	timer := time.AfterFunc(3*stall/2, func() { close(silent) })
	defer timer.Stop()
	image.Open = func(ctx context.Context, blob registry.Descriptor) (skopeo.Blob, error) {
		<-silent
		return open(ctx, blob)
	}
	require.NoError(t, r.CopyImage(t.Context(), image))

	r = script(t, "sleep 600")
	r.Stall = stall
	err := r.CopyImage(t.Context(), image)
	require.ErrorIs(t, err, child.ErrStalled)
	var stalled *skopeo.Error
	require.ErrorAs(t, err, &stalled)
	require.Equal(t, skopeo.Neither, stalled.Side)
}

// TestOnlyTheProcess: without the secret, the server refuses every request; with it, it allows only
// what the copy needs. No argument and no variable has the secret. After the copy, it stops listening.
func TestOnlyTheProcess(t *testing.T) {
	from, to, digest, _ := pair(t)
	image := pulled(t, from, to, digest)
	var requests atomic.Int64
	counted(&image, &requests)
	ctx, cancel := context.WithCancel(t.Context())
	p := startWaiting(ctx, t, image)
	plain, err := base64.StdEncoding.DecodeString(p.auth)
	require.NoError(t, err)
	_, secret, _ := strings.Cut(string(plain), ":")
	require.GreaterOrEqual(t, len(secret)*5, 128, "bits")
	for _, text := range []string{p.auth, secret} {
		require.NotContains(t, redact.Line("skopeo has printed "+text), text, "a log does not show it")
		for _, name := range []string{"arguments", "environment", "conf"} {
			require.NotContains(t, p.read(t, name), text)
		}
	}
	ask := func(method, path, authorization string) (int, string) {
		response, err := p.send(t, method, path, authorization)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(body)
	}
	manifest := "/v2/source/manifests/" + digest
	blobs, err := image.Manifest.Blobs()
	require.NoError(t, err)
	config := "/v2/source/blobs/" + blobs[0].Digest.String()
	status, body := ask(http.MethodGet, manifest, p.auth)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, string(image.Manifest.Raw), body)
	for _, blob := range blobs { // the server requests them ahead
		_, _ = ask(http.MethodHead, "/v2/destination/blobs/"+blob.Digest.String(), p.auth)
		_, _ = ask(http.MethodGet, "/v2/source/blobs/"+blob.Digest.String(), p.auth)
	}
	before := requests.Load()
	for _, path := range []string{"/v2/", "/", manifest, config, "/v2/destination/blobs/uploads/"} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			for _, authorization := range []string{"", "c2tvcGVvOg==", "c2tvcGVvOng="} { // none, no secret, a wrong secret
				status, body := ask(method, path, authorization)
				require.Equal(t, http.StatusUnauthorized, status, path)
				require.NotContains(t, body, "sha256")
			}
		}
	}
	other := reference.DigestOf([]byte("other")).String()
	for _, path := range []string{
		"/", "/v2/source/manifests/1", "/v2/source/manifests/" + other, "/v2/source/blobs/" + other, "/v2/source/tags/list", "/v2/_catalog",
		"/v2/other/manifests/" + digest, "/v2/destination/manifests/" + digest, "/v2/destination/blobs/" + blobs[0].Digest.String(), "/v2/source/../source/manifests/" + digest,
	} {
		status, _ := ask(http.MethodGet, path, p.auth)
		require.NotEqual(t, http.StatusOK, status, path)
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		for _, path := range []string{manifest, config, "/v2/destination/manifests/" + other, "/v2/destination/blobs/uploads/1?digest=" + other, "/v2/destination/manifests/" + digest} {
			status, _ := ask(method, path, p.auth)
			require.GreaterOrEqual(t, status, 400, method+" "+path)
		}
	}
	require.Equal(t, before, requests.Load(), "the server has sent no other request")
	status, _ = ask(http.MethodGet, config, p.auth)
	require.Equal(t, http.StatusOK, status)
	cancel()
	require.ErrorIs(t, <-p.ended, context.Canceled)
	_, err = http.Get("http://" + p.host + "/v2/") //nolint:noctx // loopback
	require.ErrorContains(t, err, "connection refused")
}

// counted counts the requests to either side.
func counted(image *skopeo.Image, requests *atomic.Int64) {
	open, claim, put, upload := image.Open, image.Claim, image.Put, image.Upload
	image.Open = func(ctx context.Context, blob registry.Descriptor) (skopeo.Blob, error) {
		requests.Add(1)
		return open(ctx, blob)
	}
	image.Claim = func(ctx context.Context, blob registry.Descriptor) (func(), error) {
		requests.Add(1)
		return claim(ctx, blob)
	}
	image.Put = func(ctx context.Context, blob registry.Descriptor, content []byte) error {
		requests.Add(1)
		return put(ctx, blob, content)
	}
	image.Upload = func(ctx context.Context, content io.Reader, size int64) (skopeo.Upload, error) {
		requests.Add(1)
		return upload(ctx, content, size)
	}
}

// TestSeveralAtOnce: several processes use one server, and each gets its own image.
func TestSeveralAtOnce(t *testing.T) {
	from, to, _, r := pair(t)
	ended := make(chan error)
	var images []skopeo.Image
	for _, version := range []string{"a", "b", "c", "d"} {
		digest, err := from.PushImage(source, version, registrytest.Image{Version: version})
		require.NoError(t, err)
		image := pulled(t, from, to, digest)
		images = append(images, image)
		go func() { ended <- r.CopyImage(t.Context(), image) }()
	}
	for range images {
		require.NoError(t, <-ended)
	}
	for _, image := range images {
		has(t, to, image)
	}
}
