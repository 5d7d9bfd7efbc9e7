// Package command is the command line of the worker.
package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/worker/environment"
	"github.com/osism/skopeo-worker/worker/service"
)

// errUsage is returned for an invalid command line.
var errUsage = exit.Usage.New("wrong usage")

// Version is set by the linker.
var Version = "dev"

// settings are all variables of the worker.
type settings struct {
	worker     service.Config
	registries service.Registries
	trust      service.Trust
	metrics    service.Metrics
	broker     broker.Config
	log        config.Log
}

func (s *settings) all() []any {
	return []any{&s.broker, &s.worker, &s.registries, &s.trust, &s.metrics, &s.log}
}

// New returns the command.
func New() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Annotations: config.Annotation(s.all()...),

		Use:   "worker",
		Short: "Take chunks of images from the broker and mirror them until stopped",
		Long: `Take chunks of images from the broker and mirror them until stopped. Any
number of workers share the work. On SIGTERM the worker takes no new chunk, gives
running copies 20 s to finish, and requeues the rest.

The worker finds credentials of registries where skopeo finds them: REGISTRY_AUTH_FILE,
containers/auth.json, docker's config.json, credential helpers.`,
		Version: Version,
		Args:    noArguments,

		ValidArgsFunction: cobra.NoFileCompletions,

		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(s.all()...); err != nil {
				return err
			}
			misses := config.NearMisses(os.Environ(), s.all()...)
			environment.Confine(s.registries.ChildEnv)
			if err := service.Ready(cmd.Context(), &s.worker); err != nil {
				return err
			}
			return run(cmd.Context(), s, misses)
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	c.SetHelpTemplate(config.HelpTemplate)
	return c
}

// noArguments is cobra.NoArgs with an errUsage.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: unexpected %q", errUsage, args[0])
	}
	return nil
}

func run(ctx context.Context, s settings, misses []string) error {
	log := s.log.Logger(os.Stderr)
	for _, warning := range misses {
		log.Warn(warning)
	}
	e, err := s.metrics.Listen(Version, log)
	if err != nil {
		return err
	}
	// The health checks work while the worker waits for its broker.
	return e.Serve(ctx, func(ctx context.Context) error { return work(ctx, s, e, log) })
}

func work(ctx context.Context, s settings, e *service.Endpoint, log *slog.Logger) error {
	host, _ := os.Hostname()
	b, err := broker.Open(ctx, s.broker, broker.Options{Client: "worker " + host, Log: log})
	if err != nil {
		return err
	}
	defer b.Close()
	if s.broker.Embedded() {
		log.Warn("NATS_URL is not set: using the embedded broker in DATA_DIR, which no other process can use meanwhile", "DATA_DIR", s.broker.DataDir)
	}
	store, err := budget.Open(ctx, b, log)
	if err != nil {
		return b.Explain(err)
	}
	defer store.Close()
	w, err := service.New(ctx, e, b, store, s.worker, s.registries, s.trust, log)
	if err != nil {
		return b.Explain(err)
	}
	announced := context.AfterFunc(ctx, func() { log.Info("worker is stopping: no new chunk is taken, running copies get a moment to finish") })
	defer announced()
	log.Info("worker is running", "version", Version, "concurrency", s.worker.Concurrency)
	return b.Explain(w.Run(ctx))
}
