package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/planner/notify"
	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/planner/schedule"
	"github.com/osism/skopeo-worker/planner/web"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/release"
	"github.com/osism/skopeo-worker/worker/service"
)

// timetable is the schedule of planner serve.
type timetable struct {
	Words string `envconfig:"MIRROR_SCHEDULE" desc:"cron schedule for plans, as 30 2 * * * or @daily; empty: never"`
	Zone  string `envconfig:"MIRROR_TIMEZONE" desc:"time zone of MIRROR_SCHEDULE and of the page, as Europe/Berlin; empty: that of the machine"`

	zone  *time.Location
	times *schedule.Schedule // nil: never
}

// Validate implements config.Validator.
func (t *timetable) Validate() []error {
	var bad []error
	zone := t.Zone
	t.zone = time.Local
	if zone != "" {
		var err error
		if t.zone, err = time.LoadLocation(zone); err != nil {
			bad, zone = append(bad, config.Bad("MIRROR_TIMEZONE", zone, "a time zone such as Europe/Berlin")), ""
		}
	}
	if t.Words == "" {
		return bad
	}
	times, err := schedule.Parse(t.Words, zone)
	if err != nil {
		return append(bad, config.Bad("MIRROR_SCHEDULE", t.Words, "minute, hour, day of month, month and day of week, or @daily: "+err.Error()))
	}
	t.times = &times
	return bad
}

func serveCommand() *cobra.Command {
	var s settings
	reads := []any{&s.job, &s.name, &s.timetable, &s.web, &s.notify, &s.broker, &s.worker, &s.metrics, &s.registries, &s.trust, &s.log}
	return &cobra.Command{
		Annotations: config.Annotation(reads...),

		Use:   "serve",
		Short: "Serve a page with the state of the mirrors, and plan by a schedule",
		Long:  "Serve a page that shows the mirrors, their runs and failures, at UI_ADDR, and plan by\nMIRROR_SCHEDULE. Without NATS_URL, the broker is embedded and stores its data in\nDATA_DIR, and a worker in this process mirrors. Other commands on the same machine use\nthat broker.",
		Args:  atMost(0),
		RunE: s.loaded(reads, func(cmd *cobra.Command) error {
			if s.job.Source == "-" {
				return fmt.Errorf("%w: MIRROR_SOURCE_URL=-: planner serve reads the list again and again; expected a URL or file", errUsage)
			}
			if s.broker.Embedded() { // this process copies
				if err := service.Ready(cmd.Context(), &s.worker); err != nil {
					return err
				}
			}
			log := s.log.Logger(cmd.ErrOrStderr())
			probes, err := service.Listen(s.metrics.Addr, Version, log)
			if err != nil {
				return err
			}
			page, err := web.Listen(s.web, Version, probes.Handler(), log)
			if err != nil {
				return err
			}
			return probes.Serve(cmd.Context(), func(ctx context.Context) error {
				return page.Serve(ctx, func(ctx context.Context) error {
					began := time.Now()
					se, err := connect(ctx, &s, stay, cmd.ErrOrStderr())
					if err != nil {
						return unlessStopped(ctx, err)
					}
					defer se.Close()
					return unlessStopped(ctx, se.serve(ctx, began, &s, probes, page, log))
				})
			})
		}),
	}
}

// unlessStopped returns nil if the process was stopped by a signal, and err otherwise.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// serve does the work of planner serve until ctx ends. began is when this process began to open the
// broker. If the broker is embedded, no process still publishes a run that is older.
func (se *session) serve(ctx context.Context, began time.Time, s *settings, probes *service.Endpoint, page *web.Server, log *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	if se.Embedded() {
		w, err := service.New(ctx, probes, se.Broker, se.budget, s.worker, s.registries, s.trust, log)
		if err != nil {
			return err
		}
		group.Go(func() error { return w.Run(ctx) })
	} else {
		if err := probes.Watch(ctx, se.Broker, se.budget, log); err != nil {
			return err
		}
		group.Go(func() error { return se.Keep(ctx) })
	}
	changes, err := change.Open(ctx, se.Broker)
	if err != nil {
		return err
	}
	seen, err := catalog.Open(ctx, se.Broker)
	if err != nil {
		return err
	}
	releases, err := release.Open(ctx, se.Broker)
	if err != nil {
		return err
	}
	look := overview.New(overview.Sources{Runs: se.runs, Failures: se.failures, Budget: se.budget}, se.name, s.web.MaxAge)
	planning := &planning{settings: s, session: se, log: log}
	if se.Embedded() {
		planning.settle(ctx, began)
	}
	group.Go(func() error { return planning.settleOthers(ctx) })
	notifier, err := notify.New(ctx, s.notify, se.Broker, look, se.failures, changes, planning.next, log)
	if err != nil {
		return err
	}
	group.Go(func() error { return notifier.Run(ctx) })
	pruning, err := newPruning(ctx, s, se, log)
	if err != nil {
		return err
	}
	group.Go(func() error { return pruning.run(ctx) })
	page.Show(&web.Site{
		Mirror: se.name, Overview: look, Failures: se.failures, Changes: changes, Catalog: seen, Releases: releases,
		Actions: planning, Unsent: notifier.Problems, Schedule: planning.state, Zone: s.timetable.zone,
		Pruning: pruning, Prunes: pruning.store, Surveys: pruning.state,
	})
	if s.timetable.times != nil {
		group.Go(func() error { return planning.bySchedule(ctx, *s.timetable.times) })
	}
	log.Info("planner serve is running", "version", Version, "mirror", se.name, "worker", se.Embedded())
	return group.Wait()
}
