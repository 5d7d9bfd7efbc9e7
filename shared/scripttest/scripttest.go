// Package scripttest writes shell scripts that tests run as programs.
package scripttest

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Write writes a script that a test can run at once. No process is started meanwhile: until it executes
// its program, it would have the script open for writing, and Linux runs no such file (ETXTBSY).
func Write(t testing.TB, path, lines string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+lines+"\n"), 0o700)) //nolint:gosec // a program
}
