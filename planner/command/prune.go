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
	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/service"
)

// pruneFlags are the settings and flags of the command prune.
type pruneFlags struct {
	settings
	grace     graceFlag
	caps      prune.Caps
	keep      []string
	leftList  bool
	output    string
	execution string // the file of the plan to execute
}

// defaultPrune returns the default flags.
func defaultPrune() pruneFlags {
	return pruneFlags{grace: graceFlag(30 * day), caps: prune.Caps{All: prune.MustShare(10), PerRepository: prune.MustShare(50)}}
}

func pruneCommand() *cobra.Command {
	p := defaultPrune()
	reads := []any{&p.job, &p.name, &p.broker, &p.registries, &p.log}
	c := &cobra.Command{
		Annotations: config.Annotation(reads...),

		Use:   "prune",
		Short: "Plan what to delete from the destination, or execute such a plan",
		Long:  "Compare the destination with the list, the sources and the records of mirrored tags, and\nprint a plan as YAML: the mirrored tags that the source or the list has not had for the\ngrace period. Nothing is deleted. With --execute, delete the tags of a plan, as far as it\nstill holds. If the execution is interrupted, execute the plan again.",
		Args:  atMost(0),
		RunE: p.loaded(reads, func(cmd *cobra.Command) error {
			if err := p.hasStore(); err != nil {
				return err
			}
			se, err := connect(cmd.Context(), &p.settings, join, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			if p.execution != "" {
				return p.execute(cmd, se)
			}
			return p.run(cmd, se)
		}),
	}
	c.Flags().Var(&p.grace, "grace", "delete only tags that the source or the list has not had for this `time`")
	c.Flags().Var(shareFlag{&p.caps.All}, "max", "make no plan that deletes more than this `share` of all mirrored tags")
	c.Flags().Var(shareFlag{&p.caps.PerRepository}, "max-per-repository", "make no plan that deletes more than this `share` of the mirrored tags of a repository")
	c.Flags().StringArrayVar(&p.keep, "keep", nil, "never delete tags that this `regular expression` (RE2) matches at their start; may be repeated")
	c.Flags().BoolVar(&p.leftList, "left-list", false, "also delete tags that their entries kept before they left the list")
	c.Flags().StringVarP(&p.output, "output", "o", "", "write the plan to this `file`; json: print it as JSON")
	c.Flags().StringVar(&p.execution, "execute", "", "delete the tags of the plan in this `file`")
	exclusive(c, "execute", "grace", "max", "max-per-repository")
	return c
}

// run makes a plan and prints it.
func (p *pruneFlags) run(cmd *cobra.Command, se *session) error {
	plan, err := p.plan(cmd.Context(), se, cmd.InOrStdin(), cmd.ErrOrStderr(), nil)
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

// matcher returns the matcher of --keep, or nil if there is none.
func (p *pruneFlags) matcher() (*selection.Matcher, error) {
	if len(p.keep) == 0 {
		return nil, nil
	}
	keep := selection.Selection{Keep: p.keep}
	if err := keep.Validate(); err != nil {
		return nil, fmt.Errorf("%w: --keep: %s", errUsage, reason(err))
	}
	return keep.Compile()
}

// errNothing is returned if the list is empty: every mirrored tag would be deleted.
var errNothing = errors.New("the list has no entries; nothing is planned")

// surveyed is a survey of the destination, with the stores that it reads.
type surveyed struct {
	prune.Survey
	session  *session
	holdings *holding.Store
	close    func()
}

// survey reads the list, its namespaces, and the records of mirrored tags. Close it after use.
func (p *pruneFlags) survey(ctx context.Context, se *session, stdin io.Reader, warnings io.Writer) (*surveyed, error) {
	planned, err := prepare(ctx, &p.settings, stdin, warnings)
	if err != nil {
		return nil, err
	}
	if !planned.chunking.Full() {
		return nil, fmt.Errorf("%w: CHUNK_NUMBER: prune needs the whole list", errUsage)
	}
	keep, err := p.matcher()
	if err != nil {
		return nil, err
	}
	// The records belong to the list of this mirror name: any other list lacks most of their tags.
	if err := plan.Check(ctx, se.Broker, planned.name, planned.owner); err != nil {
		return nil, err
	}
	if err := planned.expand(ctx, se.Broker, &p.settings, warnings); err != nil {
		return nil, err
	}
	entries := planned.repositories()
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: %s: %w", errUsage, planned.owner.Source, errNothing)
	}
	now, err := se.now(ctx, planned.started, warnings)
	if err != nil {
		return nil, err
	}
	holdings, err := holding.Open(ctx, se.Broker, se.log)
	if err != nil {
		return nil, err
	}
	held, err := holdings.List(ctx)
	if err != nil {
		return nil, err
	}
	pruner, err := service.NewPruner(ctx, se.Broker, p.registries, entries, se.log)
	if err != nil {
		return nil, err
	}
	return &surveyed{session: se, holdings: holdings, close: pruner.Close, Survey: prune.Survey{
		Registry: pruner.Registry, Hosts: pruner.Hosts, Select: pruner.Select, Mirror: planned.name, Destination: planned.destination,
		Entries: entries, Lacks: planned.list.Lacks(), Grace: time.Duration(p.grace), Keep: keep, LeftList: p.leftList, Now: now.UTC(), Holdings: held,
	}}, nil
}

// maxAhead is how far the clock of this machine may be ahead of the broker's without a warning.
const maxAhead = time.Minute

// now returns the time with which the grace period is compared: the earlier one of the clocks of this
// machine and of the broker.
func (se *session) now(ctx context.Context, here time.Time, warnings io.Writer) (time.Time, error) {
	there, err := se.Broker.Time(ctx)
	if err != nil || !here.After(there) {
		return here, err
	}
	if ahead := here.Sub(there); ahead > maxAhead {
		_, _ = fmt.Fprintf(warnings, "warning: the clock of this machine is %s ahead of the broker's, which counts\n", ahead.Round(time.Second))
	}
	return there, nil
}

// plan compares the destination with the list. progress may be nil.
func (p *pruneFlags) plan(ctx context.Context, se *session, stdin io.Reader, warnings io.Writer, progress func(done, all int)) (prune.Plan, error) {
	s, err := p.survey(ctx, se, stdin, warnings)
	if err != nil {
		return prune.Plan{}, err
	}
	defer s.close()
	s.Progress = progress
	return s.Plan(ctx)
}

const day = 24 * time.Hour

// graceFlag is a flag for a duration, which may be in days.
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

// shareFlag is a flag for a percentage.
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
