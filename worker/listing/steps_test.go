package listing_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestEveryStep: whatever happens to any request of a listing, once or from then on, it is
// whole or an error.
func TestEveryStep(t *testing.T) {
	bulk := registrytest.BulkAPI{PageLimit: 2}
	for name, options := range map[string][]registrytest.Option{
		"OCI":    {registrytest.WithTagPage(2), registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2"})},
		"Quay":   {registrytest.WithQuayAPI(bulk)},
		"Harbor": {registrytest.WithHarborAPI(bulk)},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, options...)
			o := listing.Options{
				Registry: registry.NewClient(registry.Options{
					Insecure: []string{r.Host()}, Keychain: keychain{}, Transport: registrytest.NewTransport(100*time.Millisecond, r),
				}),
				Log: slog.New(slog.DiscardHandler),
			}
			switch name {
			case "Quay":
				o.QuayHosts = []string{r.Host()}
			case "Harbor":
				o.HarborHosts = []string{r.Host()}
			}
			for i := range 5 {
				for _, pushed := range []struct{ repository, tag string }{{"team/tool", fmt.Sprint(i)}, {fmt.Sprint("team/tool", i), "1"}} {
					_, err := r.PushImage(pushed.repository, pushed.tag, registrytest.Image{})
					require.NoError(t, err)
				}
			}
			for what, list := range map[string]func(context.Context) ([]string, error){
				"tags": func(ctx context.Context) (names []string, _ error) {
					repository := reference.MustRepository(r.Host() + "/team/tool")
					for tag, err := range listing.New(o).For(repository).Tags(ctx, repository) {
						if err != nil {
							return names, err
						}
						names = append(names, tag.Name.String())
					}
					return names, nil
				},
				"repositories": func(ctx context.Context) ([]string, error) {
					found, err := listing.New(o).Repositories(ctx, namespace(t, r.Host()+"/team/*"))
					return texts(found.Found), err
				},
			} {
				r.ResetRequests()
				whole, err := list(t.Context())
				require.NoError(t, err)
				for _, s := range registrytest.Steps(len(r.Requests())) {
					mend := r.Take(s)
					got, err := list(t.Context())
					mend()
					if err == nil {
						require.ElementsMatch(t, whole, got, "%s, %s", what, s)
					}
				}
			}
		})
	}
}
