package acceptance

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// online is a site whose sources have the names of quay.io and Docker Hub, both for the worker and
// for skopeo.
type online struct {
	*site
	*registrytest.Internet
}

func newOnline(t *testing.T, quay, hub []registrytest.Option) *online {
	t.Helper()
	o := &online{newSite(t), registrytest.NewInternet(t, quay, hub)}
	o.env["HTTPS_PROXY"] = proxy(t, o.Internet)
	o.env["NO_PROXY"] = "127.0.0.1"
	o.env["SSL_CERT_FILE"] = o.CAFile
	o.env["INSECURE_REGISTRIES"] = o.destination.Host()
	return o
}

// proxy opens tunnels to the registries of the test only.
func proxy(t *testing.T, internet *registrytest.Internet) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only tunnels", http.StatusMethodNotAllowed)
			return
		}
		far, err := internet.Transport.DialContext(r.Context(), "tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer far.Close()
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer near.Close()
		if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(far, near) // until one of them hangs up
			_ = far.Close()
		}()
		_, _ = io.Copy(near, far)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// writeOnline writes a list of the entries as they are.
func (o *online) writeOnline(entries ...string) {
	o.t.Helper()
	o.writeList("containers:\n  - " + strings.Join(entries, "\n  - ") + "\n")
}

// requireTags checks that the destination has exactly these tags, complete and with the digests of
// the source.
func (o *online) requireTags(source *registrytest.Registry, repository string, tags ...string) {
	o.t.Helper()
	got, err := o.destination.Tags(prefix + "/" + repository)
	require.NoError(o.t, err)
	require.ElementsMatch(o.t, tags, got, repository)
	for _, tag := range tags {
		want, err := source.Digest(repository, tag)
		require.NoError(o.t, err)
		digest, err := o.destination.Digest(prefix+"/"+repository, tag)
		require.NoError(o.t, err)
		require.Equal(o.t, want, digest, "%s:%s", repository, tag)
		require.NoError(o.t, o.destination.Check(prefix+"/"+repository, tag))
	}
}

// count counts the matching requests by their subject.
func count(r *registrytest.Registry, match registrytest.Match, about func(registrytest.Request) string) map[string]int {
	n := map[string]int{}
	for _, request := range r.Requests() {
		if match(request) {
			n[about(request)]++
		}
	}
	return n
}

// most returns the greatest count.
func most(n map[string]int) int {
	greatest := 0
	for _, times := range n {
		greatest = max(greatest, times)
	}
	return greatest
}

var (
	listings = registrytest.Kinds(registrytest.KindBulkList, registrytest.KindTags)
	heads    = registrytest.Kinds(registrytest.KindManifestHead)
	puts     = registrytest.Kinds(registrytest.KindManifestPut)
	uploads  = registrytest.Kinds(registrytest.KindBlobUpload)
)
