package skopeo

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAuthorities: all CAs stay trusted, and the operator's variables stay as they are.
func TestAuthorities(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, certificates ...string) string {
		var text []byte
		for _, certificate := range certificates {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(certificate)})...)
		}
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, text, 0o600))
		return path
	}
	bundle, own, none := write("bundle.pem", "a", "b", "c"), write("own.pem", "a"), write("none.pem")
	write("same/a.pem", "a")
	write("same/b.pem", "b", "a")
	require.NoError(t, os.Symlink("a.pem", filepath.Join(dir, "same", "0123abcd.0")))
	write("more/d.pem", "a", "d")
	same, more, missing := filepath.Join(dir, "same"), filepath.Join(dir, "more"), filepath.Join(dir, "missing")
	once := func(file string) []string {
		return []string{"SSL_CERT_FILE=" + file, "SSL_CERT_DIR=" + os.DevNull}
	}
	for name, test := range map[string]struct {
		set            map[string]string
		files, folders []string
		want           []string
	}{
		"the folder has the same":          {nil, []string{missing, bundle, own}, []string{same, missing}, once(bundle)},
		"one folder has more":              {nil, []string{bundle}, []string{same, more}, nil},
		"the first file counts":            {nil, []string{own, bundle}, []string{same}, nil},
		"no bundle":                        {nil, []string{missing}, []string{same}, nil},
		"an empty bundle":                  {nil, []string{none, bundle}, []string{same}, nil},
		"a file that was set":              {map[string]string{"SSL_CERT_FILE": own}, []string{bundle}, []string{same}, nil},
		"a file that was set and is all":   {map[string]string{"SSL_CERT_FILE": bundle}, []string{own}, []string{same}, once(bundle)},
		"folders that were set":            {map[string]string{"SSL_CERT_DIR": same + ":" + more}, []string{bundle}, []string{same}, nil},
		"folders that were set to nothing": {map[string]string{"SSL_CERT_DIR": missing}, []string{bundle}, []string{more}, once(bundle)},
	} {
		t.Run(name, func(t *testing.T) {
			getenv := func(name string) string { return test.set[name] }
			require.Equal(t, test.want, authorities(getenv, test.files, test.folders))
		})
	}
}

// TestCollecting: the collector waits longer, unless the operator has set GOGC.
func TestCollecting(t *testing.T) {
	require.Equal(t, []string{"GOGC=200"}, collecting(func(string) string { return "" }))
	require.Empty(t, collecting(func(name string) string { return map[string]string{"GOGC": "50"}[name] }))
}
