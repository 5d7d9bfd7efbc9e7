package command

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/exit"
	worker "github.com/osism/skopeo-worker/worker/command"
)

// TestSameCodes: the planner and the worker have the same exit code for the same error.
func TestSameCodes(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list.yml")
	require.NoError(t, os.WriteFile(list, []byte("containers: [nginx]"), 0o600))
	used, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = used.Close() })
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for name, c := range map[string]struct {
		ctx         context.Context
		environment map[string]string
		arguments   []string
		code        int
	}{
		"METRICS_ADDR in use":    {t.Context(), map[string]string{"METRICS_ADDR": used.Addr().String()}, nil, 2},
		"an invalid variable":    {t.Context(), map[string]string{"WORKER_CONCURRENCY": "many"}, nil, 2},
		"an unknown flag":        {t.Context(), nil, []string{"--none"}, 2},
		"an unexpected argument": {t.Context(), nil, []string{"argument"}, 2},
		"DATA_DIR is a file":     {t.Context(), map[string]string{"DATA_DIR": list}, nil, 3},
		"stopped by a signal":    {stopped, map[string]string{"NATS_URL": "nats://127.0.0.1:1"}, nil, 4},
	} {
		t.Run(name, func(t *testing.T) {
			code := func(command *cobra.Command, arguments ...string) int {
				// A command removes variables from the environment of the process.
				t.Setenv("MIRROR_SOURCE_URL", list)
				t.Setenv("MIRROR_DEST_URL", "127.0.0.1:5000")
				t.Setenv("METRICS_ADDR", "127.0.0.1:0")
				t.Setenv("DATA_DIR", t.TempDir())
				t.Setenv("LOG_LEVEL", "error")
				for variable, value := range c.environment {
					t.Setenv(variable, value)
				}
				command.SetArgs(append(arguments, c.arguments...))
				command.SetOut(io.Discard)
				command.SetErr(io.Discard)
				err := command.ExecuteContext(c.ctx)
				require.Error(t, err)
				return exit.Code(err)
			}
			program := "mirror"
			if c.environment["NATS_URL"] != "" {
				program = "status"
			}
			require.Equal(t, c.code, code(New(), program), "planner")
			require.Equal(t, c.code, code(worker.New()), "worker")
		})
	}
}
