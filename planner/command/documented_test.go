package command

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	worker "github.com/osism/skopeo-worker/worker/command"
)

var (
	// fenced matches a block of shell commands in a page, and quoted matches inline code.
	fenced = regexp.MustCompile("(?ms)^```(?:sh|bash|console)\n(.*?)^```$")
	quoted = regexp.MustCompile("`([^`\n]+)`")
	// called matches one of our commands with its arguments, up to a metacharacter of the shell.
	called = regexp.MustCompile(`(?:^|[ ;&|(/'"])(planner|worker)((?: +[^ \n#;&|>)'"]+)*)`)
	// contained matches one of our commands in a container.
	contained = regexp.MustCompile(`--entrypoint (\S+) \S+`)
	// begins matches one of our commands at the start of inline code, after optional variables.
	begins = regexp.MustCompile(`^(?:[A-Z_]+=\S* )*(?:planner|worker) `)
	// commented matches a comment of the shell.
	commented = regexp.MustCompile(`(?m)(^|\s)#.*$`)
)

// commands returns our commands in the blocks and the inline code of a page.
func commands(page string) [][]string {
	var code []string
	for _, found := range fenced.FindAllStringSubmatch(page, -1) {
		code = append(code, strings.Split(commented.ReplaceAllString(strings.ReplaceAll(found[1], "\\\n", " "), ""), "\n")...)
	}
	for _, found := range quoted.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		if begins.MatchString(found[1]) {
			code = append(code, found[1])
		}
	}
	var all [][]string
	for _, line := range code {
		for _, found := range called.FindAllStringSubmatch(contained.ReplaceAllString(line, "; $1"), -1) {
			if arguments := strings.Fields(found[2]); len(arguments) > 0 {
				all = append(all, append([]string{found[1]}, arguments...))
			}
		}
	}
	return all
}

// accepts returns an error if a command or a flag of a command line does not exist.
func accepts(root *cobra.Command, arguments []string) error {
	c, rest, err := root.Find(arguments)
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	if err := c.ParseFlags(rest); !errors.Is(err, pflag.ErrHelp) {
		return err
	}
	return nil
}

// TestDocumentedCommands: the commands in pages exist, and so do their flags.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	found := 0
	for _, path := range append(pages, filepath.Join(root, "README.md"), filepath.Join(root, "charts", "skopeo-worker", "README.md")) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, line := range commands(string(text)) {
			if strings.ToUpper(line[1]) == line[1] && !strings.HasPrefix(line[1], "-") { // COMMAND stands for any
				continue
			}
			of := New()
			if line[0] == "worker" {
				of = worker.New()
			}
			require.NoError(t, accepts(of, line[1:]), "%s shows %s", path, strings.Join(line, " "))
			found++
		}
	}
	require.Greater(t, found, 100)
}

func TestCommandsAreFound(t *testing.T) {
	require.Equal(t, [][]string{
		{"planner", "plan", "--wait"}, {"planner", "status", "-o", "json"}, {"worker", "--help"}, {"planner", "check"},
	}, commands("```sh\nA=b bin/planner plan \\\n  --wait | less # planner nothing\nplanner status -o json && worker --help\n```\nof `planner check` and `the planner is`"))
	require.Error(t, accepts(New(), []string{"plna"}))
	require.Error(t, accepts(New(), []string{"plan", "--wiat"}))
}
