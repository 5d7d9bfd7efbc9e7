package command

import (
	"context"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
)

// completionTimeout is how long a completion may take: a user waits at a prompt.
const completionTimeout = 2 * time.Second

// complete returns a completion from the data at the broker. If the broker does not answer, it proposes
// nothing, and prints no message that would disturb the prompt.
func complete(list func(ctx context.Context, se *session) ([]cobra.Completion, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		se, err := open(ctx, new(settings), io.Discard)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer se.Close()
		found, err := list(ctx, se)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.DeleteFunc(found, func(c cobra.Completion) bool { return slices.Contains(args, c) }), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeRun proposes the runs of the mirror name, the newest first, for the first argument.
func completeRun(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found, directive := complete(func(ctx context.Context, se *session) ([]cobra.Completion, error) {
		runs, err := se.runs.List(ctx, se.name)
		var ids []cobra.Completion
		for _, r := range runs {
			ids = append(ids, r.ID)
		}
		return ids, err
	})(cmd, args, prefix)
	return found, directive | cobra.ShellCompDirectiveKeepOrder
}

// completeRepository proposes the repositories with failures.
var completeRepository = complete(func(ctx context.Context, se *session) ([]cobra.Completion, error) {
	records, err := se.failures.List(ctx, se.name)
	var names []cobra.Completion
	for _, r := range records {
		if !r.Unreadable {
			names = append(names, display.Printable(r.Repository))
		}
	}
	return slices.Compact(names), err
})

// completeChunk proposes the numbers of the chunks with failures.
var completeChunk = complete(func(ctx context.Context, se *session) ([]cobra.Completion, error) {
	records, err := se.failures.List(ctx, se.name)
	var chunks []int
	for _, r := range records {
		if !r.Unreadable {
			chunks = append(chunks, r.Chunk)
		}
	}
	slices.Sort(chunks)
	var numbers []cobra.Completion
	for _, chunk := range slices.Compact(chunks) {
		numbers = append(numbers, strconv.Itoa(chunk))
	}
	return numbers, err
})
