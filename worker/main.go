// The command worker takes chunks of images from the broker and mirrors them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/heap"
	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/worker/command"
)

func main() {
	heap.Reserve()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := command.New().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", redact.Text(err.Error()))
		os.Exit(exit.Code(err))
	}
}
