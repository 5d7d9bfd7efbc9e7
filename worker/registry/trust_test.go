package registry

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestChangedCertificates: added and removed certificates take effect within seconds.
func TestChangedCertificates(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	r := registrytest.New(t, registrytest.WithTLS())
	now := time.Now()
	network := NewTransport(nil, DefaultStall)
	network.(*stalling).inner.(*byHost).now = func() time.Time { return now }
	get := func() error {
		response, err := (&http.Client{Transport: network}).Get(r.URL() + "/v2/")
		if err == nil {
			err = response.Body.Close()
		}
		return err
	}
	require.Error(t, get())
	folder := filepath.Join(home, ".config/containers/certs.d", r.Host())
	require.NoError(t, os.MkdirAll(folder, 0o700))
	require.NoError(t, r.WriteCA(filepath.Join(folder, "ca.crt")))
	require.Error(t, get(), "not looked at again yet")
	now = now.Add(certificatesFor)
	require.NoError(t, get())

	require.NoError(t, registrytest.New(t, registrytest.WithTLS()).WriteCA(filepath.Join(folder, "ca.crt")))
	require.NoError(t, get())
	now = now.Add(certificatesFor)
	require.Error(t, get(), "the CA of another one")
}
