// Package command is the command line of the planner.
package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/environment"
)

// Version is set by the linker.
var Version = "dev"

// brokerTimeout is how long the planner waits for a broker that does not answer. A restart takes
// less.
const brokerTimeout = 15 * time.Second

// New returns the command with its subcommands.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:              "planner",
		Short:            "Mirror lists of container images",
		Long:             "Mirror lists of container images: split a list into chunks, publish them to the\nworkers, and show and control the runs. planner COMMAND --help lists the environment\nvariables that a command reads.",
		Version:          Version,
		SilenceUsage:     true,
		SilenceErrors:    true,
		PersistentPreRun: warnOfNearMisses,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w; %s --help lists the flags", errUsage, err, c.CommandPath())
	})
	root.SetHelpTemplate(config.HelpTemplate + "\nExit codes:\n" + ExitCodes)
	root.SetHelpCommand(helpCommand())
	color := display.ColorAuto
	root.PersistentFlags().TextVar(&color, "color", color, "`when` to use colors: auto, always or never; auto obeys NO_COLOR")
	_ = root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]cobra.Completion{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(planCommand(), mirrorCommand(), serveCommand(), notifyTestCommand(), checkCommand(), statusCommand(), failedCommand(), changesCommand(), republishCommand(), cancelCommand(), forgetCommand(), pruneCommand(), releaseCommand(), completionCommand())
	return root
}

// explained returns the action of a command. If the disk of the broker is full, its error contains
// instructions.
func (s *settings) explained(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if s.broker.Embedded() {
			return broker.Explain(err, s.broker.DataDir)
		}
		return broker.Explain(err, "")
	}
}

// loaded returns the action of a command that needs no broker, or opens it by itself. It loads the
// variables first, and removes them from the environment of child processes.
func (s *settings) loaded(reads []any, run func(cmd *cobra.Command) error) func(*cobra.Command, []string) error {
	return s.explained(func(cmd *cobra.Command, _ []string) error {
		if err := config.Load(reads...); err != nil {
			return err
		}
		environment.Confine(s.registries.ChildEnv)
		return run(cmd)
	})
}

// onStore returns the action of a command that reads the data at the broker.
func (s *settings) onStore(run func(cmd *cobra.Command, se *session, args []string) error) func(*cobra.Command, []string) error {
	return s.explained(func(cmd *cobra.Command, args []string) error {
		se, err := open(cmd.Context(), s, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer se.Close()
		se.color = colorOf(cmd)
		return run(cmd, se, args)
	})
}

// exclusive makes the command return errUsage if the flag is passed with any of the others.
func exclusive(c *cobra.Command, flag string, others ...string) {
	for _, other := range others {
		c.MarkFlagsMutuallyExclusive(flag, other) // completion then proposes only one of them
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		for _, other := range others {
			if c.Flags().Changed(flag) && c.Flags().Changed(other) {
				return fmt.Errorf("%w: --%s cannot be used with --%s", errUsage, other, flag)
			}
		}
		return nil
	}
}

// atMost is cobra.MaximumNArgs with errUsage.
func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("%w: unexpected %q", errUsage, args[n])
		}
		return nil
	}
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// formatFlag is the flag -o, whose only value is json.
type formatFlag struct{ json bool }

func (f *formatFlag) add(c *cobra.Command) {
	c.Flags().FuncP("output", "o", "print `json`", func(value string) error {
		if f.json = value == "json"; !f.json {
			return errors.New("expected json")
		}
		return nil
	})
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]cobra.Completion{"json"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
}

// messages returns the writer for messages: standard error if standard output is for JSON.
func (f *formatFlag) messages(c *cobra.Command) io.Writer {
	if f.json {
		return c.ErrOrStderr()
	}
	return c.OutOrStdout()
}

// colorOf returns the value of --color.
func colorOf(c *cobra.Command) display.Color { return display.Color(c.Flag("color").Value.String()) }

// screen describes the output of a command.
func screen(c *cobra.Command) display.Screen { return display.ScreenOf(c.OutOrStdout(), colorOf(c)) }

// session is an open broker with the stores that the commands use.
type session struct {
	*broker.Broker
	runs     *run.Store
	failures *failure.Store
	counter  *failure.Counter
	budget   *budget.Store
	name     string
	color    display.Color
	outage   time.Duration // how long a followed run may wait for registries that are away; 0: for ever
	log      *slog.Logger
	logs     *followedLog
	drained  <-chan struct{} // see consume.Consumer.Drained; nil if other processes work, too, or a terminal shows the run
}

// open loads the variables that every command needs, and connects to the broker.
func open(ctx context.Context, s *settings, out io.Writer) (*session, error) {
	if err := config.Load(s.stored()...); err != nil {
		return nil, err
	}
	if err := s.hasStore(); err != nil {
		return nil, err
	}
	return connect(ctx, s, join, out)
}

// hasStore returns errNoStore if DATA_DIR has no store. A command that only reads must not create one.
func (s *settings) hasStore() error {
	if !s.broker.Embedded() || broker.Kept(s.broker.DataDir) {
		return nil
	}
	return fmt.Errorf("%w: DATA_DIR=%s; set DATA_DIR to the folder of planner mirror, or NATS_URL to the broker of the workers", errNoStore, s.broker.DataDir)
}

// use is how a command uses the embedded broker in DATA_DIR.
type use int

const (
	// join is for commands that only read and publish. If another process uses DATA_DIR, they
	// connect to its broker.
	join use = iota
	// own is for commands with a worker: they fail if another process uses DATA_DIR.
	own
	// joinOrOwn is for commands that run a worker unless another process uses DATA_DIR.
	joinOrOwn
	// stay is own for planner serve, which waits for the broker without a time limit.
	stay
)

func connect(ctx context.Context, s *settings, u use, logTo io.Writer) (*session, error) {
	logs := newFollowedLog(logTo)
	log := logs.logger(&s.log)
	b, err := openBroker(ctx, s.broker, u, log)
	if err != nil {
		return nil, err
	}
	runs, err := run.Open(ctx, b)
	if err != nil {
		b.Close()
		return nil, err
	}
	limits, err := budget.Open(ctx, b, log)
	if err != nil {
		b.Close()
		return nil, err
	}
	failures := failure.NewStore(b, log)
	return &session{
		Broker: b, runs: runs, failures: failures, counter: failures.Counter(), budget: limits, name: s.name.Name, outage: s.outages.Timeout, log: log, logs: logs,
	}, nil
}

func openBroker(ctx context.Context, c broker.Config, u use, log *slog.Logger) (*broker.Broker, error) {
	host, _ := os.Hostname()
	o := broker.Options{Client: "planner " + host, Patience: brokerTimeout, Log: log, Join: u == join || u == joinOrOwn, Share: u != join}
	if u == stay {
		o.Patience = 0
	}
	return broker.Open(ctx, c, o)
}

// Close ends the session.
func (se *session) Close() {
	se.budget.Close()
	se.Broker.Close()
}

var (
	// errFailed is returned if images failed. The command has shown them.
	errFailed = exit.Failed.New("some images failed")
	// errNoStore is returned if DATA_DIR has no store.
	errNoStore = exit.Usage.New("no store: nothing has run here")
	// errUsage is returned for an invalid command line.
	errUsage = exit.Usage.New("wrong usage")
	// errUnfinished is returned if a command ends before its run.
	errUnfinished = exit.Unfinished.New("unfinished")
	// errToDo is returned by check --exit-code if a run would do something. The command has shown it.
	errToDo = exit.ToDo.New("something to do")
)

// Message returns the message for an error, or "" if the command has shown the reason already.
func Message(err error) string {
	if err == nil || errors.Is(err, errFailed) || errors.Is(err, errToDo) {
		return ""
	}
	text := err.Error()
	if before, near, found := strings.Cut(text, suggestions); found {
		text = before + "; is " + strings.Join(strings.Fields(near), " or ") + " meant?"
	}
	return display.Printable(text)
}

// suggestions begins cobra's list of similar commands in an error.
const suggestions = "\n\nDid you mean this?\n"

func printJSON(w io.Writer, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(visible(data), '\n'))
	return err
}

// lineWriter prints each value as a line of JSON. It skips values that equal the last one.
type lineWriter struct {
	out  io.Writer
	last []byte
}

func (l *lineWriter) write(v any) error {
	line, err := json.Marshal(v)
	if err != nil || bytes.Equal(line, l.last) {
		return err
	}
	l.last = line
	_, err = l.out.Write(append(visible(line), '\n'))
	return err
}

// visible escapes characters that are valid in JSON, but that a terminal would interpret or hide.
// Outside text may contain them. The escaped JSON has the same value.
func visible(data []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(data) {
		switch {
		case unicode.IsPrint(r) || r == '\n':
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}
