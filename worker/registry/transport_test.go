package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// TestEchoedCredentials: errors are redacted if a registry or its token server sends back the
// credentials.
func TestEchoedCredentials(t *testing.T) {
	const user, password = "robot", "correct-horse-battery"
	inBase64 := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	for name, test := range map[string]struct {
		option registrytest.Option
		kind   registrytest.Kind
	}{
		"password": {registrytest.WithBasicAuth(user, password), registrytest.KindManifestGet},
		"password at the token server": {
			registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}), registrytest.KindToken},
		"token": {registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}), registrytest.KindManifestGet},
	} {
		t.Run(name, func(t *testing.T) {
			var sent []string
			echo := func(write func(scheme, value string) string) func(string, string) string {
				return func(scheme, value string) string {
					if value != "" {
						sent = append(sent, value)
					}
					return write(scheme, value)
				}
			}
			for _, write := range []func(scheme, value string) string{
				func(scheme, value string) string { return scheme + " " + value },
				func(_, value string) string { return value },
				func(_, value string) string { return `{"errors":[{"code":"DENIED","message":"no ` + value + `"}]}` },
				func(_, value string) string { return "<title>" + url.QueryEscape(value) + "</title>" },
				func(_, value string) string {
					decoded, _ := base64.StdEncoding.DecodeString(value)
					return "not " + string(decoded)
				},
			} {
				r := registrytest.New(t, test.option)
				_, _ = pushImage(t, r, "1")
				keychain := new(fixed)
				keychain.set(user, password)
				r.Inject(registrytest.Fault{Match: registrytest.Kinds(test.kind), Status: http.StatusForbidden, Echo: echo(write)})
				_, err := insecure(r, keychain).Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
				require.Error(t, err)
				for _, secret := range append(sent, password, inBase64) {
					require.NotContains(t, err.Error(), secret)
				}
			}
			require.NotEmpty(t, sent)
		})
	}
}

// stall is longer than a busy machine takes for a request.
const stall = 3 * time.Second

var (
	small = bytes.Repeat([]byte("sbom "), 200)
	// large is more bytes than the buffers between two processes hold.
	large = bytes.Repeat([]byte("sbom "), 3<<20)
)

func posts(r registrytest.Request) bool { return r.Method == http.MethodPost }

// onDisk returns a registry that receives and sends large blobs at the speed of the disk. In memory,
// each write to a blob copies all of it, which takes so long on a busy machine that the registry seems
// to stall.
func onDisk(t *testing.T) *registrytest.Registry {
	t.Helper()
	return registrytest.New(t, registrytest.WithDirectory(t.TempDir()))
}

// impatient returns a client with this stall timeout.
func impatient(hosts ...string) *registry.Client {
	return registry.NewClient(registry.Options{Insecure: hosts, Transport: registry.NewTransport(hosts, stall)})
}

// TestCopyBlobStalls: a silent registry ends the copy at any moment, and the error blames that
// registry.
func TestCopyBlobStalls(t *testing.T) {
	t.Parallel()
	partly := make(chan int, 1)
	partly <- len(large) / 2
	const source, destination = "get blob ", "put "
	for name, test := range map[string]struct {
		blamed string
		fault  registrytest.Fault
	}{
		"source before the answer":      {source, registrytest.Fault{Match: blobGets, Hang: true}},
		"source in the middle":          {source, registrytest.Fault{Match: blobGets, Drip: partly}},
		"destination before the upload": {destination, registrytest.Fault{Match: posts, Hang: true}},
		"destination in the middle":     {destination, registrytest.Fault{Match: blobUploads, Hang: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := onDisk(t), onDisk(t)
			digest, err := from.PushBlob(repository, large)
			require.NoError(t, err)
			struck := map[string]*registrytest.Registry{source: from, destination: to}
			struck[test.blamed].Inject(test.fault)
			err = copyBlob(t.Context(), impatient(from.Host(), to.Host()), from.Host(), to.Host(), digest, large)
			names := map[string]string{source: from.Host() + "/" + repository, destination: to.Host() + "/mirror"}
			require.EqualError(t, err, test.blamed+names[test.blamed]+"@"+digest+": unavailable: stalled: no byte moved for 3s")
			require.ErrorIs(t, err, registry.ErrStalled)
			require.ErrorIs(t, err, registry.ErrUnavailable)
		})
	}
}

func copyBlob(ctx context.Context, c *registry.Client, from, to, digest string, content []byte) error {
	return transfer.New(c).Send(ctx, reference.MustRepository(from+"/"+repository), reference.MustRepository(to+"/mirror"),
		registry.Descriptor{Digest: reference.MustDigest(digest), Size: int64(len(content))})
}

// TestFrozen: requests end on a dead connection, kept or new, with TLS or within a blob.
func TestFrozen(t *testing.T) {
	t.Parallel()
	head := func(c *registry.Client, host string) error {
		_, err := c.Head(t.Context(), reference.MustRepository(host+"/"+repository), reference.MustTag("1"))
		return err
	}
	t.Run("handshake", func(t *testing.T) {
		relay := registrytest.NewRelay(t, registrytest.New(t, registrytest.WithTLS()).Host)
		relay.Freeze()
		require.ErrorIs(t, head(impatient(relay.Host()), relay.Host()), registry.ErrStalled)
	})
	t.Run("kept connection", func(t *testing.T) {
		r := registrytest.New(t)
		_, err := r.PushImage(repository, "1", registrytest.Image{})
		require.NoError(t, err)
		relay := registrytest.NewRelay(t, r.Host)
		c := impatient(relay.Host())
		require.NoError(t, head(c, relay.Host()))
		relay.Freeze()
		require.ErrorIs(t, head(c, relay.Host()), registry.ErrStalled)
		relay.Thaw()
		require.NoError(t, head(c, relay.Host()))
	})
	for _, side := range []string{"get blob ", "put "} {
		t.Run("blob "+side, func(t *testing.T) {
			from, to := onDisk(t), onDisk(t)
			digest, err := from.PushBlob(repository, large)
			require.NoError(t, err)
			struck, match, hosts := from, blobGets, []string{from.Host(), to.Host()}
			i := 0
			if side == "put " {
				struck, match, i = to, blobUploads, 1
			}
			relay := registrytest.NewRelay(t, struck.Host)
			hosts[i] = relay.Host()
			seen, frozen := struck.Notify(match), make(chan struct{})
			struck.Inject(registrytest.Fault{Match: match, Gate: frozen})
			go func() { <-seen; relay.Freeze(); close(frozen) }()
			err = copyBlob(t.Context(), impatient(hosts...), hosts[0], hosts[1], digest, large)
			require.ErrorIs(t, err, registry.ErrStalled)
			require.ErrorContains(t, err, side+relay.Host())
		})
	}
}

// slow returns a registry that sends a blob byte by byte, for longer in all than the stall
// timeout.
func slow(t *testing.T, content []byte) (r *registrytest.Registry, digest string) {
	t.Helper()
	r = registrytest.New(t)
	digest, err := r.PushBlob(repository, content)
	require.NoError(t, err)
	bytes := make(chan int)
	r.Inject(registrytest.Fault{Match: blobGets, Drip: bytes})
	go func() {
		defer close(bytes)
		pace := time.NewTicker(stall / 20)
		defer pace.Stop()
		for range 40 {
			<-pace.C
			select {
			case bytes <- 1:
			case <-t.Context().Done():
				return
			}
		}
	}()
	return r, digest
}

// TestCopyBlobSlowly: a slow transfer is not ended.
func TestCopyBlobSlowly(t *testing.T) {
	t.Parallel()
	from, digest := slow(t, small)
	to, m := registrytest.New(t), new(meter.Meter)
	require.NoError(t, copyBlob(meter.With(t.Context(), m), impatient(from.Host(), to.Host()), from.Host(), to.Host(), digest, small))
	require.EqualValues(t, len(small), m.Bytes())
}

// TestCopyTimeout: a transfer is ended after CopyTimeout.
func TestCopyTimeout(t *testing.T) {
	t.Parallel()
	from, digest := slow(t, small)
	to := registrytest.New(t)
	c := registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host()}, CopyTimeout: stall})
	require.ErrorContains(t, copyBlob(t.Context(), c, from.Host(), to.Host(), digest, small), "unavailable: no complete answer within 3s")
}
