package service

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outage"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// userAgent is the User-Agent of the worker's own requests.
const userAgent = "skopeo-worker"

// network makes the clients with which a worker reaches registries, within their limits.
type network struct {
	config     Config
	registries Registries
	trust      Trust
	keychain   *containers.Keychain
	transport  http.RoundTripper // without limits
	throttle   *throttle.Throttle
	outages    *outage.Tracker
	metrics    *metrics.Metrics
	log        *slog.Logger
}

func (s *Service) network(c Config, r Registries, t Trust, keychain *containers.Keychain, log *slog.Logger) *network {
	n := &network{config: c, registries: r, trust: t, keychain: keychain, metrics: s.metrics, log: log}
	n.transport = registry.NewTransport(r.Insecure, c.StallTimeout)
	r.setRates(s.budget)
	n.throttle = &throttle.Throttle{Budget: s.budget, Identity: identity(n.keychain), Log: log,
		Observe: func(registry string, kind budget.Kind, status int) { s.metrics.Request(registry, string(kind), status) },
	}
	probes := r.client(n.throttle.Transport(n.transport, ""), n.keychain, c.CopyTimeout, nil)
	n.outages = &outage.Tracker{Budget: s.budget, Registry: probes, IsDestination: n.throttle.IsDestination, Log: log}
	return n
}

// keychain returns the credentials of this process.
func (r Registries) keychain() *containers.Keychain { return containers.New(cloud.New(r.Clouds...)) }

// setRates passes the configured request rates to the budget.
func (r Registries) setRates(store *budget.Store) {
	for registry, rates := range r.Rates {
		store.SetRates(registry, rates)
	}
}

// connector returns a chunk.Parts.Connect, which makes one client for each mirror name. For the first
// chunk of a run, it catches up with the limits that its planner has set. Later changes are followed. The
// error is mirror.ErrIncomplete if a part of the mirrors is missing.
func (n *network) connector(engine mirror.Engine, indexes mirror.Indexes) (func(context.Context, message.Chunk) (resolve.Resolver, *mirror.Mirror, error), error) {
	if _, _, err := n.connect("", engine, indexes); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	resolvers, mirrors := map[string]resolve.Resolver{}, map[string]*mirror.Mirror{}
	newest := map[string]string{} // run that was caught up with, by mirror name
	return func(ctx context.Context, c message.Chunk) (resolve.Resolver, *mirror.Mirror, error) {
		noteDestinations(n.throttle, c.Repositories)
		mu.Lock()
		defer mu.Unlock()
		if newest[c.Name] != c.Run {
			if err := n.throttle.Budget.CatchUp(ctx); err != nil {
				n.log.Debug("the limits of registries may be out of date", "error", err)
			} else {
				newest[c.Name] = c.Run
			}
		}
		if mirrors[c.Name] == nil {
			var err error
			if resolvers[c.Name], mirrors[c.Name], err = n.connect(c.Name, engine, indexes); err != nil {
				return nil, nil, err
			}
		}
		return resolvers[c.Name], mirrors[c.Name], nil
	}, nil
}

func (n *network) connect(mirrorName string, engine mirror.Engine, indexes mirror.Indexes) (resolve.Resolver, *mirror.Mirror, error) {
	transport := n.throttle.Transport(n.transport, mirrorName)
	client := n.registries.client(transport, n.keychain, n.config.CopyTimeout, n.outages.Guard)
	upstream := n.registries.upstream(client, n.log)
	m, err := mirror.New(mirror.Parts{
		Registry: client,
		Listing:  upstream.Listing,
		Engine:   engine,
		Builtin:  n.config.Engine == EngineBuiltin,
		Verifier: n.config.verifier(client, transport),
		Trust:    n.trust.verifier(client, transport, n.metrics.Verified),
		Guard:    n.copying(), GuardEngine: n.copyingItself(mirrorName),
		Free:    n.throttle.Unlimited,
		Indexes: indexes,
	})
	return upstream, m, err
}

// client returns a client for registries with the credentials of this process. guard, which is
// optional, decides about every request. copyTimeout limits the copy of a blob; 0 means no limit.
func (r Registries) client(transport http.RoundTripper, keychain *containers.Keychain, copyTimeout time.Duration, guard func(context.Context, registry.Request, func() error) error) *registry.Client {
	return registry.NewClient(registry.Options{
		Insecure: r.Insecure, Keychain: keychain, UserAgent: userAgent, CopyTimeout: copyTimeout, Transport: transport, Guard: guard,
	})
}

// upstream returns the resolver of tags and digests.
func (r Registries) upstream(client *registry.Client, log *slog.Logger) *resolve.Upstream {
	return &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{
		Registry: client, QuayHosts: r.QuayHosts, HarborHosts: r.HarborHosts, Log: log,
	})}
}

// identity returns a throttle.Throttle.Identity: a registry counts pulls under the user name of the
// credentials.
func identity(keychain *containers.Keychain) func(registry string) string {
	return func(registry string) string {
		found, err := keychain.Find(context.Background(), registry)
		if err != nil {
			return ""
		}
		return found.Username
	}
}
