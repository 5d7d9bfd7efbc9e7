// Command manual writes the man pages and the shell completions of planner and worker into a
// folder, for the archives and packages. SOURCE_DATE_EPOCH dates the pages.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	planner "github.com/osism/skopeo-worker/planner/command"
	worker "github.com/osism/skopeo-worker/worker/command"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: manual FOLDER")
		os.Exit(2)
	}
	if err := errors.Join(write(planner.New(), planner.ExitCodes, os.Args[1]), write(worker.New(), "", os.Args[1])); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(1)
	}
}

// write writes the pages and completions of a command and its subcommands.
func write(c *cobra.Command, codes, folder string) error {
	man, completions := filepath.Join(folder, "man"), filepath.Join(folder, "completions")
	if err := errors.Join(os.MkdirAll(man, 0o755), os.MkdirAll(completions, 0o755)); err != nil {
		return err
	}
	return errors.Join(
		pages(c, codes, man),
		c.GenBashCompletionFileV2(filepath.Join(completions, c.Name()+".bash"), true),
		c.GenZshCompletionFile(filepath.Join(completions, "_"+c.Name())),
		c.GenFishCompletionFile(filepath.Join(completions, c.Name()+".fish"), true),
	)
}
