package check_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

type keychain map[string]containers.Credential

func (k keychain) Find(_ context.Context, repository string) (containers.Credential, error) {
	host, _, _ := strings.Cut(repository, "/")
	return k[host], nil
}

func (k keychain) Forget(string) {}

// TestAccess: the source must accept the credentials, and the destination must permit a push. The
// attempt leaves nothing there.
func TestAccess(t *testing.T) {
	from := registrytest.New(t, registrytest.WithBasicAuth("reader", "right"))
	to := registrytest.New(t, registrytest.WithBasicAuth("writer", "right"))
	entry := func(path string) message.Repository {
		return message.Repository{
			Source:      reference.MustRepository(from.Host() + "/" + path),
			Destination: reference.MustRepository(to.Host() + "/" + path),
		}
	}
	list := []message.Repository{entry("one/a"), entry("one/b"), entry("two/a")}
	for name, test := range map[string]struct {
		reader, writer      string
		fault               registrytest.Fault
		source, destination string
	}{
		"both":                            {reader: "right", writer: "right"},
		"a wrong password there":          {reader: "right", writer: "wrong", destination: "unauthorized"},
		"a wrong password here":           {reader: "wrong", writer: "right", source: "unauthorized"},
		"no password there":               {reader: "right", destination: "unauthorized"},
		"a destination that is read-only": {reader: "right", writer: "right", destination: "denied", fault: registrytest.Fault{Match: puts, Status: http.StatusForbidden}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.fault.Status != 0 {
				defer to.Inject(test.fault)()
			}
			keys := keychain{from.Host(): {Username: "reader", Password: test.reader}}
			if test.writer != "" {
				keys[to.Host()] = containers.Credential{Username: "writer", Password: test.writer}
			}
			client := registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host()}, Keychain: keys})
			c := &check.Checker{Mirror: mirror.NewComparing(client, client.Comparing(), listing.New(listing.Options{Registry: client}), mirrortest.Limited)}
			rows, err := c.Access(t.Context(), list)
			require.NoError(t, err)
			require.Len(t, rows, 3, "the source, and two projects at the destination")
			for _, row := range rows {
				want := test.source
				if row.Destination {
					want = test.destination
				}
				if want == "" {
					require.Empty(t, row.Reason)
				} else {
					require.Contains(t, row.Reason, want)
				}
				require.NotContains(t, row.Reason, "wrong")
			}
			there, err := to.Repositories()
			require.NoError(t, err)
			require.Empty(t, there)
		})
	}
}
