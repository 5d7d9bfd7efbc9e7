package command

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/config"
)

// helpCommand is cobra's help command, except that it returns an error for an unknown command.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			if len(rest) > 0 {
				return fmt.Errorf("%w: unexpected %q", errUsage, rest[0])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
		ValidArgsFunction: func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			for _, other := range c.Root().Commands() {
				names = append(names, cobra.CompletionWithDesc(other.Name(), other.Short))
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// shells has the function that writes the completion script for each shell.
var shells = map[string]func(root *cobra.Command, out io.Writer) error{
	"bash":       func(root *cobra.Command, out io.Writer) error { return root.GenBashCompletionV2(out, true) },
	"fish":       func(root *cobra.Command, out io.Writer) error { return root.GenFishCompletion(out, true) },
	"powershell": (*cobra.Command).GenPowerShellCompletionWithDesc,
	"zsh":        (*cobra.Command).GenZshCompletion,
}

func completionCommand() *cobra.Command {
	names := slices.Sorted(maps.Keys(shells))
	return &cobra.Command{
		Use:       "completion " + strings.Join(names, "|"),
		Short:     "Print the completion script for a shell",
		Long:      "Print the completion script for a shell. For bash, for example:\n\n  source <(planner completion bash)",
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			write := shells[first(args)]
			if write == nil || len(args) > 1 {
				return fmt.Errorf("%w: expected one of %s, found %q", errUsage, strings.Join(names, ", "), strings.Join(args, " "))
			}
			return write(cmd.Root(), cmd.OutOrStdout())
		},
	}
}

// warnOfNearMisses warns about variables that nearly have the name of a variable of the planner.
func warnOfNearMisses(c *cobra.Command, _ []string) {
	if c.Annotations[config.Variables] == "" {
		return
	}
	for _, warning := range config.NearMisses(os.Environ(), new(settings).all()...) {
		_, _ = fmt.Fprintln(c.ErrOrStderr(), "warning:", display.Printable(warning))
	}
}
