// Command planner splits lists of images into chunks for the workers, and shows and controls the runs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/osism/skopeo-worker/planner/command"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/heap"
	"github.com/osism/skopeo-worker/shared/redact"
)

func main() {
	heap.Reserve()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := command.New().ExecuteContext(ctx)
	if text := command.Message(err); text != "" {
		fmt.Fprintln(os.Stderr, "planner:", redact.Text(text))
	}
	if err != nil {
		os.Exit(exit.Code(err))
	}
}
