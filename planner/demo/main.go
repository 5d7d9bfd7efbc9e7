//go:build unix

// Command demo shows planner mirror without an account and without the internet. It mirrors small images
// between two registries on loopback with bin/planner, repairs the image that fails, and checks the
// result.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := play(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nThe demo was interrupted; nothing of it remains.")
		os.Exit(1)
	default:
		fmt.Fprintf(os.Stderr, "\nThe demo failed: %v\n", err)
		os.Exit(1)
	}
}
