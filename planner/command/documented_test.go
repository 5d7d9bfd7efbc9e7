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
	// fenced is a block of shell in a page, and quoted is code in a line.
	fenced = regexp.MustCompile("(?ms)^```(?:sh|bash|console)\n(.*?)^```$")
	quoted = regexp.MustCompile("`([^`\n]+)`")
	// called is a command of ours with its arguments, up to what the shell does with it.
	called = regexp.MustCompile(`(?:^|[ ;&|(/'"])(planner|worker)((?: +[^ \n#;&|>)'"]+)*)`)
	// contained is a command of ours in an image.
	contained = regexp.MustCompile(`--entrypoint (\S+) \S+`)
	// begins is a command of ours at the start of code in a line, which may set variables.
	begins = regexp.MustCompile(`^(?:[A-Z_]+=\S* )*(?:planner|worker) `)
	// commented is a comment of the shell.
	commented = regexp.MustCompile(`(?m)(^|\s)#.*$`)
)

// commands returns the commands of ours that a page shows, in blocks and in lines.
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

// accepts returns an error if a command line has a command or a flag that does not exist.
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

// TestDocumentedCommands: the commands that pages show exist, with their flags.
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
