package service

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/environment"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/verify"
)

// Config are the settings of a worker.
type Config struct {
	Concurrency  int           `envconfig:"WORKER_CONCURRENCY" default:"8" expect:"a whole number, 1 or more" desc:"images that a worker copies at once; if it is not set and COPY_ENGINE is builtin: 16"`
	Engine       string        `envconfig:"COPY_ENGINE" default:"skopeo" expect:"skopeo or builtin" desc:"what copies images: skopeo, or builtin to copy them without it"`
	Skopeo       string        `envconfig:"SKOPEO_PATH" default:"skopeo" desc:"name or path of skopeo, 1.9.3 or newer; unused with COPY_ENGINE=builtin"`
	MaxAttempts  int           `envconfig:"MAX_ATTEMPTS" default:"5" expect:"a whole number, 1 or more" desc:"how often an image is tried in a run before it is a failure"`
	StallTimeout time.Duration `envconfig:"STALL_TIMEOUT" default:"2m" expect:"a duration such as 2m, more than 0" desc:"a copy that moves no byte for this long is ended and counts as a failed try"`
	CopyTimeout  time.Duration `envconfig:"COPY_TIMEOUT" default:"0s" expect:"a duration such as 12h, 0 or more" desc:"a copy that takes longer than this is ended and counts as a failed try; 0: no limit"`

	found string // version of skopeo, stored by Ready
}

// The values of COPY_ENGINE.
const (
	EngineSkopeo  = "skopeo"
	EngineBuiltin = "builtin"
)

// builtinConcurrency is the default of WORKER_CONCURRENCY for the builtin engine. It starts no process
// for an image, and for small images it mostly waits: for four round trips each.
const builtinConcurrency = 16

// Validate implements config.Validator.
func (c *Config) Validate() []error {
	var bad []error
	if c.Engine != EngineSkopeo && c.Engine != EngineBuiltin {
		bad = append(bad, config.Bad("COPY_ENGINE", c.Engine, "skopeo or builtin"))
	}
	if c.Engine == EngineBuiltin && os.Getenv("WORKER_CONCURRENCY") == "" {
		c.Concurrency = builtinConcurrency
	}
	if c.Concurrency < 1 {
		bad = append(bad, config.Bad("WORKER_CONCURRENCY", "", "a whole number, 1 or more"))
	}
	if c.MaxAttempts < 1 {
		bad = append(bad, config.Bad("MAX_ATTEMPTS", "", "a whole number, 1 or more"))
	}
	if c.StallTimeout <= 0 {
		bad = append(bad, config.Bad("STALL_TIMEOUT", "", "a duration such as 2m, more than 0"))
	}
	if c.CopyTimeout < 0 {
		bad = append(bad, config.Bad("COPY_TIMEOUT", "", "a duration such as 12h, 0 or more"))
	}
	return bad
}

// Trust is the setting for signatures.
type Trust struct {
	Policy string `envconfig:"SIGNATURE_POLICY" expect:"the path of a policy.json" desc:"path of a policy.json that states which signatures images need to be mirrored; empty: none"`

	policy policy.Policy // content of the file
}

// Validate implements config.Validator.
func (t *Trust) Validate() []error {
	if t.Policy == "" {
		return nil
	}
	var err error
	if t.policy, err = policy.Read(t.Policy); err != nil {
		return []error{fmt.Errorf("SIGNATURE_POLICY: %w", err)}
	}
	return nil
}

// verifier returns the mirror.Trust that checks tags against the policy. Without a policy, it accepts
// all tags. observe is that of verify.NewTrust.
func (t Trust) verifier(client *registry.Client, transport http.RoundTripper, observe func(registry, result string)) mirror.Trust {
	if t.Policy == "" {
		return mirror.AnyTag{}
	}
	return verify.NewTrust(t.policy, client, transport, observe)
}

// Registries are the settings for requests to registries.
type Registries struct {
	Insecure    []string `envconfig:"INSECURE_REGISTRIES" expect:"hosts, separated by commas" desc:"hosts, separated by commas, whose certificates are not verified and that may speak plain HTTP"`
	QuayHosts   []string `envconfig:"QUAY_HOSTS" expect:"hosts, separated by commas" desc:"hosts, separated by commas, that run Quay: their API returns the digests of 100 tags at once; host=quay.io or host=api:10/1s+20;tags:5/1s;manifests:50/1s+10;other:60/1s: with these request rates"`
	HarborHosts []string `envconfig:"HARBOR_HOSTS" expect:"hosts, separated by commas" desc:"hosts, separated by commas, that run Harbor 2 and are mirrored to: their API returns the digests of 100 images at once; host=api:10/1s: with request rates, as in QUAY_HOSTS"`
	// Rates are the request rates in QUAY_HOSTS and HARBOR_HOSTS, by registry.
	Rates    map[string]budget.Rates
	Clouds   []string `envconfig:"CLOUD_CREDENTIALS" expect:"ecr, ecr-public, gar and acr, separated by commas" desc:"clouds, separated by commas, to whose registries this process logs in with the identity that it has there: ecr, ecr-public, gar, acr"`
	ChildEnv []string `envconfig:"CHILD_ENV" expect:"names of variables, separated by commas" desc:"variables, separated by commas, that skopeo and credential helpers get in addition to the usual ones; a name may end in *"`
}

// Validate implements config.Validator.
func (r *Registries) Validate() []error {
	bad := slices.Concat(checkHosts("INSECURE_REGISTRIES", r.Insecure), r.checkRated("QUAY_HOSTS", r.QuayHosts), r.checkRated("HARBOR_HOSTS", r.HarborHosts))
	for i, name := range r.Clouds {
		r.Clouds[i] = strings.TrimSpace(name)
		if !slices.Contains(cloud.Names(), r.Clouds[i]) {
			bad = append(bad, config.Bad("CLOUD_CREDENTIALS", name, strings.Join(cloud.Names(), ", ")+", separated by commas"))
			break
		}
	}
	for i, name := range r.ChildEnv {
		r.ChildEnv[i] = strings.TrimSpace(name)
		if !environment.Valid(r.ChildEnv[i]) {
			bad = append(bad, config.Bad("CHILD_ENV", name, "names of variables, separated by commas, which may end in *, and none of NATS_* and MIRROR_*"))
			break
		}
	}
	return bad
}

// checkRated checks a list of hosts, and moves their request rates to r.Rates.
func (r *Registries) checkRated(variable string, hosts []string) []error {
	for i, item := range hosts {
		host, text, found := strings.Cut(item, "=")
		if !found {
			continue
		}
		rates, err := budget.ParseRates(text)
		if err != nil {
			return []error{fmt.Errorf("%s=%q: %w", variable, item, err)}
		}
		hosts[i] = strings.TrimSpace(host)
		if r.Rates == nil {
			r.Rates = map[string]budget.Rates{}
		}
		r.Rates[reference.RegistryOf(hosts[i])] = rates
	}
	return checkHosts(variable, hosts)
}

// checkHosts trims and checks a list of hosts.
func checkHosts(variable string, hosts []string) []error {
	for i, host := range hosts {
		hosts[i] = strings.TrimSpace(host)
		if d, err := reference.ParseDestination(hosts[i]); err != nil || d.Prefix != "" {
			return []error{config.Bad(variable, host, "hosts with their ports, separated by commas, without https:// and without a path")}
		}
	}
	return nil
}

// Metrics is the address of the metrics and probes of a worker.
type Metrics struct {
	Addr string `envconfig:"METRICS_ADDR" default:":9090" desc:"address of /metrics, /healthz and /readyz; if it is not set and :9090 is in use, a free port"`

	chosen bool // METRICS_ADDR is set
}

// Validate implements config.Validator.
func (m *Metrics) Validate() []error {
	m.chosen = os.Getenv("METRICS_ADDR") != ""
	return checkAddress(m.Addr)
}

// Listen is the function Listen with the address. If the default address is in use, as by another
// worker on this host, it uses a free port.
func (m *Metrics) Listen(version string, log *slog.Logger) (*Endpoint, error) {
	e, err := Listen(m.Addr, version, log)
	if m.chosen || !errors.Is(err, syscall.EADDRINUSE) {
		return e, err
	}
	log.Warn("METRICS_ADDR is not set and its default is in use: using a free port", "default", m.Addr)
	return Listen(":0", version, log)
}

// OptionalMetrics is Metrics for a process that ends with its run. The address is optional.
type OptionalMetrics struct {
	Addr string `envconfig:"METRICS_ADDR" desc:"address of /metrics, /healthz and /readyz while it runs; empty: none"`
}

// Validate implements config.Validator.
func (m *OptionalMetrics) Validate() []error {
	if m.Addr == "" {
		return nil
	}
	return checkAddress(m.Addr)
}

func checkAddress(address string) []error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return []error{config.Bad("METRICS_ADDR", address, "host:port, or :port for every address")}
	}
	return nil
}
