package outage_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outage"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// worker is a tracker and a client that it guards.
type worker struct {
	*outage.Tracker
	client *registry.Client
}

func newWorker(t *testing.T, b *broker.Broker, registries ...*registrytest.Registry) *worker {
	t.Helper()
	var insecure []string
	for _, r := range registries {
		insecure = append(insecure, r.Host())
	}
	store, err := budget.Open(t.Context(), b, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(store.Close)
	th := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler)}
	network := th.Transport(registrytest.NewTransport(silence, registries...), "")
	w := &worker{Tracker: &outage.Tracker{
		Budget: store, IsDestination: th.IsDestination, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registry: registry.NewClient(registry.Options{Insecure: insecure, Transport: network}),
	}}
	w.client = registry.NewClient(registry.Options{Insecure: insecure, Transport: network, Guard: w.Guard})
	return w
}

func at(r *registrytest.Registry, path string) reference.Repository {
	return reference.MustRepository(r.Host() + "/" + path)
}

// pushed returns a registry with an image 1 in each repository.
func pushed(t *testing.T, repositories ...string) *registrytest.Registry {
	t.Helper()
	r := registrytest.New(t)
	for _, name := range repositories {
		_, err := r.PushImage(name, "1", registrytest.Image{Version: name})
		require.NoError(t, err)
	}
	return r
}

// closed reports whether the error says that the registry is closed.
func closed(err error) bool {
	var spent *budget.SpentError
	return errors.As(err, &spent)
}

// put pushes another image to the repository.
func (w *worker) put(t *testing.T, r *registrytest.Registry, repository, tag string) error {
	t.Helper()
	raw, err := r.Manifest(repository, "1")
	require.NoError(t, err)
	return w.client.Put(t.Context(), at(r, repository), reference.MustTag(tag), registry.Manifest{Raw: raw, MediaType: "application/vnd.oci.image.manifest.v1+json"})
}
