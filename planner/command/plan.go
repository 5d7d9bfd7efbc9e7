package command

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

// planFlags are the settings and flags of the command plan.
type planFlags struct {
	settings
	dryRun, wait, force bool
	format              formatFlag
	timeout             time.Duration
}

func planCommand() *cobra.Command {
	var p planFlags
	reads := []any{&p.job, &p.name, &p.broker, &p.outages, &p.registries, &p.log}
	c := &cobra.Command{
		Annotations: config.Annotation(reads...),

		Use:   "plan",
		Short: "Fetch the list, split it into chunks, publish them",
		Long:  "Fetch the list, split it into chunks, and publish them to the broker, each with its\ndelivery time. A plan of the whole list supersedes the unfinished older plans of its\nMIRROR_NAME.",
		Args:  atMost(0),
		PreRunE: func(*cobra.Command, []string) error {
			if p.timeout < 0 || p.timeout > 0 && !p.wait {
				return fmt.Errorf("%w: --timeout needs --wait and a duration above 0", errUsage)
			}
			if p.format.json && !p.wait && !p.dryRun {
				return fmt.Errorf("%w: -o json needs --wait or --dry-run", errUsage)
			}
			return nil
		},
		RunE: p.loaded(reads, p.run),
	}
	c.Flags().BoolVar(&p.dryRun, "dry-run", false, "print the chunks; publish nothing")
	c.Flags().BoolVar(&p.wait, "wait", false, "follow the run to its end")
	c.Flags().DurationVar(&p.timeout, "timeout", 0, "with --wait: stop following after this `duration`; the run continues")
	addForce(c, &p.force)
	p.format.add(c)
	return c
}

func (p *planFlags) run(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), p.format.messages(cmd)
	plan, err := prepare(ctx, &p.settings, cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if p.dryRun {
		if err := plan.expandAlone(ctx, &p.settings, cmd.ErrOrStderr()); err != nil {
			return err
		}
		if p.format.json {
			return printJSON(cmd.OutOrStdout(), plan.table())
		}
		display.Plan(out, plan.table(), time.Now())
		return nil
	}
	se, err := connect(ctx, &p.settings, join, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer se.Close()
	se.color = colorOf(cmd)
	if p.wait && se.Embedded() {
		return fmt.Errorf("%w: --wait needs workers: NATS_URL, or a planner serve that has DATA_DIR; planner mirror plans and mirrors in one process", errUsage)
	}
	if err := plan.expand(ctx, se.Broker, &p.settings, cmd.ErrOrStderr()); err != nil {
		return err
	}
	r, err := plan.publish(ctx, se, p.force)
	if err != nil {
		return err
	}
	if r.Chunks == 0 {
		_, _ = fmt.Fprintf(out, "Nothing to publish: there is no chunk %d.\n", p.job.Number)
		return nil
	}
	plan.published(out, r)
	if se.Embedded() {
		_, _ = fmt.Fprintf(out, "It is stored in DATA_DIR=%s; planner mirror processes it.\n", p.broker.DataDir)
	}
	if !p.wait {
		return nil
	}
	if p.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("--timeout %s", p.timeout))
		defer cancel()
	}
	return se.follow(ctx, r.ID, cmd.OutOrStdout(), p.format)
}

// published prints the numbers of entries and chunks, and when the last chunk is due.
func (p *planned) published(out io.Writer, r run.Run) {
	_, _ = fmt.Fprintf(out, "Published run %s: %s.\n", r.ID, extent(r))
	if last := p.chunks[len(p.chunks)-1].Due; last.After(p.started) {
		_, _ = fmt.Fprintf(out, "The last chunk is due at %s.\n", last.Local().Format("2006-01-02 15:04:05 MST"))
	}
}

func addForce(c *cobra.Command, force *bool) {
	c.Flags().BoolVar(force, "force", false, "use MIRROR_NAME even if it is tied to another list or destination")
}

// planned is a list that has been read and split.
type planned struct {
	owner       plan.Owner
	name        string
	destination string
	chunking    plan.Chunking
	started     time.Time
	chunks      []plan.Chunk
	limits      map[string]budget.Limit
	fingerprint string
	list        list.List
	namespaces  *plan.Namespaces               // nil if the list has none, or before expand
	has         func(reference.Reference) bool // reports whether the list has an image
}

// prepare fetches, checks and splits the list. It publishes nothing. Call expand next, for the
// namespaces in the list.
func prepare(ctx context.Context, s *settings, stdin io.Reader, warnings io.Writer) (*planned, error) {
	data, err := list.Fetcher{Stdin: stdin}.Fetch(ctx, s.job.Source)
	if err != nil {
		return nil, err
	}
	l, err := list.Parse(data, s.job.Source, s.job.destination, s.job.defaults)
	if err != nil {
		return nil, err
	}
	for _, w := range l.Warnings {
		_, _ = fmt.Fprintln(warnings, "warning:", w)
	}
	p := &planned{
		owner:       plan.Owner{Source: list.Shown(s.job.Source), Destination: s.job.destination.String()},
		name:        s.name.Name,
		destination: s.job.destination.String(),
		chunking:    plan.Chunking{Size: int(s.job.Size), Number: int(s.job.Number), Interval: s.job.Interval},
		limits:      s.job.limits,
		started:     time.Now(),
		list:        l,
		has:         l.Has(),
	}
	if p.chunks, err = p.chunking.Split(l.Entries, p.started); err != nil {
		return nil, err
	}
	p.fingerprint = fingerprint(p.destination, p.chunking, s.job.defaults.Hash(), string(data))
	return p, nil
}

// fingerprint identifies the contents of a plan.
func fingerprint(parts ...any) string {
	hash := sha256.New()
	for _, part := range parts {
		_, _ = fmt.Fprintf(hash, "%+v\n", part)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// publish publishes the plan as a new run. It does nothing if the plan has no chunks.
func (p *planned) publish(ctx context.Context, se *session, force bool) (run.Run, error) {
	if err := plan.Claim(ctx, se.Broker, p.name, p.owner, force); err != nil {
		return run.Run{}, err
	}
	if err := se.budget.SetLimits(ctx, p.name, p.limits); err != nil || len(p.chunks) == 0 {
		return run.Run{}, err
	}
	// Listing namespaces may have taken minutes. The run is as old as its record, so that it does not look
	// like one whose planner was killed.
	now := time.Now()
	r := run.Run{
		Name: p.name, ID: run.NewID(now), Kind: run.KindPlan, Destination: p.destination,
		Started: now.UTC(), FirstDue: p.started.UTC(), Partial: !p.chunking.Full(), Fingerprint: p.fingerprint, Warnings: p.list.Warnings, FailedNamespaces: p.failedNamespaces(),
	}
	if p.chunking.Full() {
		r.Interval = p.chunking.Interval
	}
	publisher := plan.Publisher{Broker: se.Broker, Runs: se.runs, Failures: se.failures, Waiting: se.heldBack}
	r, err := publisher.Publish(ctx, r, p.chunks, p.chunking.Full())
	if err == nil {
		p.markLeft(ctx, se)
		if err := p.catalogue(ctx, se); err != nil {
			se.log.Warn("the page cannot show new repositories yet; it shows each once a worker has resolved it", "error", err)
		}
		if p.namespaces != nil {
			if err := p.namespaces.Remember(ctx); err != nil {
				se.log.Warn("the next plan compares namespaces with an older listing", "error", err)
			}
		}
	}
	return r, err
}

// catalogue records the repositories of the plan, so that the page shows those that no worker has
// resolved yet.
func (p *planned) catalogue(ctx context.Context, se *session) error {
	store, err := catalog.Open(ctx, se.Broker)
	if err != nil {
		return err
	}
	var all []catalog.Repository
	for _, c := range p.chunks {
		for _, r := range c.Repositories() {
			all = append(all, catalog.Repository{Source: r.Source, Destination: r.Destination, Planned: p.started.UTC(), Tags: []catalog.Tag{}})
		}
	}
	return store.Plan(ctx, p.name, all)
}

// markLeft marks the failures and the mirrored tags that the list no longer has. It needs a plan of the
// whole list. If it fails, the next plan marks them.
func (p *planned) markLeft(ctx context.Context, se *session) {
	if !p.chunking.Full() {
		return
	}
	marked, err := se.failures.MarkLeft(ctx, p.name, p.has, p.started)
	if marked > 0 {
		se.log.Info("failed images have left the list", "images", marked)
	}
	if err != nil {
		se.log.Warn("failed images that have left the list are not marked", "error", err)
	}
	p.markHoldings(ctx, se)
}

// markHoldings records which mirrored tags the list no longer has, so that they can be pruned.
func (p *planned) markHoldings(ctx context.Context, se *session) {
	holdings, err := holding.Open(ctx, se.Broker, se.log)
	if err == nil {
		err = holdings.MarkList(ctx, p.name, p.list.Lacks(), p.started.UTC())
	}
	if err != nil {
		se.log.Warn("mirrored tags that have left the list are not marked", "error", err)
	}
}

// registries returns the hosts of the sources and of the destination.
func (p *planned) registries() []string {
	hosts := map[string]bool{}
	for _, c := range p.chunks {
		for _, r := range c.Repositories() {
			hosts[r.Source.Registry()], hosts[r.Destination.Registry()] = true, true
		}
	}
	for _, n := range p.list.Namespaces {
		hosts[n.Registry()] = true
	}
	return slices.Sorted(maps.Keys(hosts))
}

func (p *planned) table() []display.PlannedChunk {
	rows := make([]display.PlannedChunk, len(p.chunks))
	for i, c := range p.chunks {
		rows[i] = display.PlannedChunk{Number: c.Number, Due: c.Due, Registry: c.Registry}
		for _, e := range c.Entries {
			rows[i].Entries = append(rows[i].Entries, e.Text)
		}
	}
	return rows
}
