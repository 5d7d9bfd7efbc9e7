package service

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// userAgent is what registries see, beside skopeo's own.
const userAgent = "skopeo-worker"

// client talks to registries over the transport, with the credentials of whoever runs
// this process, as the guard lets it; nil is always. A blob that it copies may take as
// long as copyTimeout; 0: as it takes.
func (r Registries) client(transport http.RoundTripper, keychain *containers.Keychain, copyTimeout time.Duration, guard func(context.Context, registry.Request, func() error) error) *registry.Client {
	return registry.NewClient(registry.Options{
		Insecure: r.Insecure, Keychain: keychain, UserAgent: userAgent, CopyTimeout: copyTimeout, Transport: transport, Guard: guard,
	})
}

// upstream finds out what repositories hold.
func (r Registries) upstream(client *registry.Client, log *slog.Logger) *resolve.Upstream {
	return &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{
		Registry: client, QuayHosts: r.QuayHosts, Log: log,
	})}
}

// identity tells who a registry counts us as: the user whose credentials we have
// there, or else nobody, whom it counts by address.
func identity(keychain *containers.Keychain) func(registry string) string {
	return func(registry string) string {
		found, err := keychain.Find(context.Background(), registry)
		if err != nil {
			return ""
		}
		return found.Username
	}
}
