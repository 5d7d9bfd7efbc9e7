package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/child"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outage"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/osism/skopeo-worker/worker/verify"
)

// engine returns the engine that copies images; nil for the builtin engine, which is package mirror
// itself. The error is why this process cannot copy images.
func (c Config) engine(ctx context.Context, r Registries, keychain *containers.Keychain, log *slog.Logger) (mirror.Engine, error) {
	runner := &skopeo.Runner{Path: c.Skopeo, Insecure: r.Insecure, Credentials: keychain.Unknown, Stall: c.StallTimeout, Timeout: c.CopyTimeout, AtOnce: c.Concurrency}
	version, err := c.version(ctx, runner)
	if err != nil || c.Engine == EngineBuiltin {
		return nil, err
	}
	log.Debug("skopeo copies images", "version", version)
	watchOver(log)
	return runner, nil
}

// version returns the version of skopeo; "" for the builtin engine. It runs skopeo only if Ready has
// not stored the version. The error is why this process cannot copy images.
func (c Config) version(ctx context.Context, runner *skopeo.Runner) (string, error) {
	if c.Engine == EngineBuiltin {
		_, err := policy.Load("")
		return "", err
	}
	// skopeo enforces the policy. But if it is unreadable, skopeo would report that with each image.
	if _, err := policy.Load(""); err != nil && !errors.Is(err, policy.ErrUnenforceable) {
		return "", err
	}
	if c.found != "" {
		return c.found, nil
	}
	return runner.Version(ctx)
}

// Ready returns an error if this process cannot copy images: if skopeo is missing, or if the signature
// policy or a file with credentials of the registries cannot be read. Without registries, it checks all
// files with credentials. Ready sends no request and starts no credential helper. For New, it stores
// skopeo's version in c, and starts the reaper of package child in the background.
func Ready(ctx context.Context, c *Config, registries ...string) error {
	var err error
	if c.found, err = c.version(ctx, &skopeo.Runner{Path: c.Skopeo}); err != nil {
		return err
	}
	if err := containers.New(cloud.New()).Readable(registries...); err != nil || c.Engine == EngineBuiltin {
		return err
	}
	// The caller opens the broker meanwhile. New waits for the reaper, and logs its error.
	go func() { _ = child.Guard() }()
	return nil
}

// verifier returns the mirror.Verifier that checks images against the signature policy. If skopeo does
// that, it accepts all images.
func (c Config) verifier(client *registry.Client, network http.RoundTripper) mirror.Verifier {
	if c.Engine != EngineBuiltin {
		return mirror.AnyImage{}
	}
	return verify.New(client, network)
}

// watchOver makes skopeo processes end with this one. It warns if that is impossible on this system, or
// if stalls cannot be noticed.
func watchOver(log *slog.Logger) {
	if err := child.SeesBytes(); err != nil {
		log.Warn("STALL_TIMEOUT has no effect on skopeo on this machine; set COPY_TIMEOUT", "error", err)
	}
	if err := child.Guard(); err != nil {
		log.Warn("if this process is killed, its skopeo processes keep running", "error", err)
	}
}

// guard is the type of mirror.Parts.Guard.
type guard = func(ctx context.Context, source, destination reference.Repository, digest reference.Digest, run func(context.Context) error) error

// copying returns the guard for copies whose requests this process sends, each with its own guard.
func (n *network) copying() guard {
	return func(ctx context.Context, source, _ reference.Repository, digest reference.Digest, run func(context.Context) error) error {
		return within(outage.WithImage(ctx, digest), n.config.CopyTimeout, n.timed(source, run))
	}
}

// copyingItself returns the guard for a process of skopeo that reads the source itself. Its pulls count
// for the budget of the mirror name. It is one operation for the tracker of outages.
func (n *network) copyingItself(mirrorName string) func(ctx context.Context, source, destination reference.Repository, digest reference.Digest, pulls int, run func(context.Context) error) error {
	return func(ctx context.Context, source, destination reference.Repository, digest reference.Digest, pulls int, run func(context.Context) error) error {
		return n.outages.GuardCopy(ctx, source, destination, digest, func(ctx context.Context) error {
			return n.throttle.GuardCopy(ctx, mirrorName, source, destination, pulls, n.timed(source, run))
		})
	}
}

// timed measures a copy without its waits.
func (n *network) timed(source reference.Repository, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		start := time.Now()
		defer func() { n.metrics.Copy(source.Registry(), time.Since(start)) }()
		return run(ctx)
	}
}

// errTooLong is the cancellation cause of a copy that took longer than COPY_TIMEOUT.
var errTooLong = errors.New("the copy took longer than COPY_TIMEOUT")

// within runs a copy, and ends it if it takes longer than the limit; 0 means no limit.
func within(ctx context.Context, limit time.Duration, run func(context.Context) error) error {
	if limit <= 0 {
		return run(ctx)
	}
	over := fmt.Errorf("%w (%s)", errTooLong, limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, over)
	defer cancel()
	if err := run(ctx); err == nil || !errors.Is(context.Cause(ctx), errTooLong) {
		return err
	}
	return over
}
