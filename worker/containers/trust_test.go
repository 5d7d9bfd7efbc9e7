package containers_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestSameTrustAsSkopeo: with the same files, either both this client and skopeo can use a
// registry, or neither.
func TestSameTrustAsSkopeo(t *testing.T) {
	const certificates, conf = ".config/containers/certs.d", ".config/containers/registries.conf"
	secure := registrytest.WithTLS()
	ca := func(t *testing.T, r *registrytest.Registry, folder string) {
		t.Helper()
		write(t, filepath.Join(folder, "note"), "makes the folder")
		require.NoError(t, r.WriteCA(filepath.Join(folder, "ca.crt")))
	}
	for name, test := range map[string]struct {
		options []registrytest.Option
		prepare func(t *testing.T, r *registrytest.Registry, home string)
		in      bool
		is      error
	}{
		"an unknown CA": {options: []registrytest.Option{secure}, is: registry.ErrCertificate},
		"its CA": {options: []registrytest.Option{secure}, in: true, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			ca(t, r, filepath.Join(home, certificates, r.Host()))
		}},
		"its CA, of another host": {options: []registrytest.Option{secure}, is: registry.ErrCertificate, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			ca(t, r, filepath.Join(home, certificates, "other.example"))
		}},
		"no certificate of ours": {options: []registrytest.Option{secure, registrytest.WithClientCertificates()}, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			ca(t, r, filepath.Join(home, certificates, r.Host()))
		}},
		"a certificate of ours": {options: []registrytest.Option{secure, registrytest.WithClientCertificates()}, in: true, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			folder := filepath.Join(home, certificates, r.Host())
			ca(t, r, folder)
			require.NoError(t, r.WriteClient(filepath.Join(folder, "client.cert"), filepath.Join(folder, "client.key")))
		}},
		"a certificate without its key": {options: []registrytest.Option{secure}, is: containers.ErrCertificates, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			folder := filepath.Join(home, certificates, r.Host())
			ca(t, r, folder)
			write(t, filepath.Join(folder, "client.cert"), "no key")
		}},
		"insecure, another CA": {options: []registrytest.Option{secure}, in: true, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			write(t, filepath.Join(home, conf), "[[registry]]\nlocation = \""+r.Host()+"\"\ninsecure = true\n")
		}},
		"insecure, plain HTTP": {in: true, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			write(t, filepath.Join(home, conf), "[[registry]]\nlocation = \""+r.Host()+"\"\ninsecure = true\n")
		}},
		"insecure by path": {in: true, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			write(t, filepath.Join(home, conf), "[[registry]]\nlocation = \""+r.Host()+"/osism\"\ninsecure = true\n")
		}},
		"insecure by another path": {is: registry.ErrPlainHTTP, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			write(t, filepath.Join(home, conf), "[[registry]]\nlocation = \""+r.Host()+"/other\"\ninsecure = true\n")
		}},
		"blocked": {is: registry.ErrBlocked, prepare: func(t *testing.T, r *registrytest.Registry, home string) {
			write(t, filepath.Join(home, conf), "[[registry]]\nlocation = \""+r.Host()+"\"\ninsecure = true\nblocked = true\n")
		}},
		"plain HTTP": {is: registry.ErrPlainHTTP},
	} {
		t.Run(name, func(t *testing.T) {
			home := isolate(t)
			r := registrytest.New(t, test.options...)
			digest, err := r.PushImage("osism/tool", "1", registrytest.Image{})
			require.NoError(t, err)
			if test.prepare != nil {
				test.prepare(t, r, home)
			}
			found, err := registry.NewClient(registry.Options{Keychain: containers.New(cloud.New())}).
				Head(t.Context(), reference.MustRepository(r.Host()+"/osism/tool"), reference.MustTag("1"))
			out, failed := exec.CommandContext(t.Context(), "skopeo", "inspect", "--raw", "docker://"+r.Host()+"/osism/tool:1").CombinedOutput()
			if !test.in {
				require.Error(t, err)
				require.Error(t, failed, string(out))
				if test.is != nil {
					require.ErrorIs(t, err, test.is)
				}
				return
			}
			require.NoError(t, err)
			require.Equal(t, digest, found.Digest.String())
			require.NoError(t, failed, string(out))
		})
	}
}
