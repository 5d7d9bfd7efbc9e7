package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/osism/skopeo-worker/shared/config"
)

var (
	// gap separates the columns of the list of variables.
	gap = regexp.MustCompile(` {2,}`)
	// special matches characters that Markdown interprets. The pages are made from Markdown.
	special = regexp.MustCompile("[\\\\`*_<>\\[\\]]")
)

// pages writes a manual page for each command, with the exit codes.
func pages(c *cobra.Command, codes, folder string) error {
	c.DisableAutoGenTag = true
	describe(c, codes)
	return doc.GenManTree(c, &doc.GenManHeader{Section: "1", Source: "skopeo-worker " + c.Version, Manual: "skopeo-worker"}, folder)
}

// describe adds the environment variables and the exit codes, if there are any, to the description of a
// command and its subcommands.
func describe(c *cobra.Command, codes string) {
	var b strings.Builder
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") { // an example
			b.WriteString("  " + line)
		} else {
			b.WriteString(escape(line))
		}
	}
	if variables := c.Annotations[config.Variables]; variables != "" {
		b.WriteString("\n\n# ENVIRONMENT\n")
		for line := range strings.Lines(variables) {
			b.WriteString(variable(strings.TrimSpace(line)))
		}
	}
	if codes != "" {
		b.WriteString("\n\n# EXIT STATUS\n")
		for line := range strings.Lines(codes) {
			b.WriteString("  " + line)
		}
	}
	c.Long = b.String()
	for _, sub := range c.Commands() {
		describe(sub, codes)
	}
}

// variable returns the paragraph of a variable: its name, an optional default, and its meaning.
func variable(line string) string {
	columns := gap.Split(line, 3)
	name := columns[0]
	if len(columns) == 3 {
		name += " (" + columns[1] + ")"
	}
	return fmt.Sprintf("**%s**\n: %s\n\n", escape(name), escape(columns[len(columns)-1]))
}

func escape(text string) string { return special.ReplaceAllString(text, `\$0`) }
