package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/environment"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/service"
)

// pruneFlags are the settings and flags of the command prune.
type pruneFlags struct {
	settings
	grace  graceFlag
	caps   prune.Caps
	keep   []string
	output string
}

func pruneCommand() *cobra.Command {
	p := pruneFlags{grace: graceFlag(30 * day), caps: prune.Caps{All: prune.MustShare(10), PerRepository: prune.MustShare(50)}}
	reads := []any{&p.job, &p.name, &p.broker, &p.registries, &p.log}
	c := &cobra.Command{
		Annotations: config.Annotation(reads...),

		Use:   "prune",
		Short: "Plan what to delete from the destination; deletes nothing",
		Long:  "Compare the destination with the list, the sources and the records of what was mirrored,\nand print a plan as YAML: the tags that were mirrored and that the source or the list has\nnot had for the time of grace. Nothing is deleted.",
		Args:  noArguments,
		RunE: p.explained(func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(reads...); err != nil {
				return err
			}
			environment.Confine(p.registries.ChildEnv)
			return p.run(cmd)
		}),
	}
	c.Flags().Var(&p.grace, "grace", "delete only what the source or the list has not had for this `time`")
	c.Flags().Var(shareFlag{&p.caps.All}, "max", "make no plan that deletes more than this `share` of all mirrored tags")
	c.Flags().Var(shareFlag{&p.caps.PerRepository}, "max-per-repository", "make no plan that deletes more than this `share` of the mirrored tags of a repository")
	c.Flags().StringArrayVar(&p.keep, "keep", nil, "never delete tags that this `regular expression` (RE2) matches at their start; may be repeated")
	c.Flags().StringVarP(&p.output, "output", "o", "", "write the plan to this `file`; json: print it as JSON")
	return c
}

func (p *pruneFlags) run(cmd *cobra.Command) error {
	plan, err := p.plan(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr())
	if cmd.Context().Err() != nil {
		return fmt.Errorf("%w: interrupted", errUnfinished)
	}
	if err != nil {
		return err
	}
	display.Prune(cmd.ErrOrStderr(), plan)
	if err := p.caps.Check(plan); err != nil {
		return err
	}
	switch p.output {
	case "json":
		return printJSON(cmd.OutOrStdout(), plan)
	case "":
		return writePlan(cmd.OutOrStdout(), plan)
	}
	var text bytes.Buffer
	if err := writePlan(&text, plan); err != nil {
		return err
	}
	if err := os.WriteFile(p.output, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("%w: --output: %w", errUsage, err)
	}
	return nil
}

func writePlan(out io.Writer, plan prune.Plan) error {
	e := yaml.NewEncoder(out)
	e.SetIndent(2)
	if err := e.Encode(plan); err != nil {
		return err
	}
	return e.Close()
}

// matcher returns what --keep matches, or nil.
func (p *pruneFlags) matcher() (*selection.Matcher, error) {
	if len(p.keep) == 0 {
		return nil, nil
	}
	keep := selection.Selection{Include: p.keep}
	if err := keep.Validate(); err != nil {
		return nil, fmt.Errorf("%w: --keep: %s", errUsage, reason(err))
	}
	return keep.Compile()
}

// errNothing is returned if there is no list to compare with.
var errNothing = errors.New("the list has no entries; nothing is planned")

// plan compares the destination with the list.
func (p *pruneFlags) plan(ctx context.Context, stdin io.Reader, warnings io.Writer) (prune.Plan, error) {
	keep, err := p.matcher()
	if err != nil {
		return prune.Plan{}, err
	}
	if err := p.hasStore(); err != nil {
		return prune.Plan{}, err
	}
	planned, err := prepare(ctx, &p.settings, stdin, warnings)
	if err != nil {
		return prune.Plan{}, err
	}
	entries := planned.repositories()
	switch {
	case !planned.chunking.Full():
		return prune.Plan{}, fmt.Errorf("%w: CHUNK_NUMBER: prune needs the whole list", errUsage)
	case len(entries) == 0:
		return prune.Plan{}, fmt.Errorf("%w: %s: %w", errUsage, planned.owner.Source, errNothing)
	}
	b, err := openBroker(ctx, p.broker, join, p.log.Logger(warnings))
	if err != nil {
		return prune.Plan{}, err
	}
	defer b.Close()
	records, err := holding.Open(ctx, b, p.log.Logger(warnings))
	if err != nil {
		return prune.Plan{}, err
	}
	all, err := records.List(ctx)
	if err != nil {
		return prune.Plan{}, err
	}
	pruner, err := service.NewPruner(ctx, b, p.registries, entries, p.log.Logger(warnings))
	if err != nil {
		return prune.Plan{}, err
	}
	defer pruner.Close()
	survey := prune.Survey{
		Registry: pruner.Registry, Source: pruner.Source, Holdings: all, Mirror: planned.name, Destination: planned.destination,
		Entries: entries, Mirrors: planned.mirrors, Grace: time.Duration(p.grace), Keep: keep, Now: planned.started.UTC(),
	}
	return survey.Plan(ctx)
}

const day = 24 * time.Hour

// graceFlag is a duration that may be in days.
type graceFlag time.Duration

func (g *graceFlag) Type() string   { return "time" }
func (g *graceFlag) String() string { return formatDays(time.Duration(*g)) }

func formatDays(d time.Duration) string {
	if d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

func (g *graceFlag) Set(text string) error {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return errGrace
		}
		*g = graceFlag(time.Duration(n) * day)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return errGrace
	}
	*g = graceFlag(d)
	return nil
}

var errGrace = errors.New("expected a time such as 30d or 12h")

// shareFlag is a percentage.
type shareFlag struct{ share *prune.Share }

func (s shareFlag) Type() string { return "share" }

func (s shareFlag) String() string {
	if s.share == nil {
		return ""
	}
	return s.share.String()
}

func (s shareFlag) Set(text string) (err error) {
	*s.share, err = prune.ParseShare(text)
	return err
}
