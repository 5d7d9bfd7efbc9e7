package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	deadline = 20 * time.Second
	often    = 5 * time.Millisecond
)

// wrapper starts processes that a signal to its group does not reach, and prints all pids:
// one in a session of its own, and a daemon with a child.
const wrapper = `trap "" TERM
setsid sh -c 'trap "" TERM; echo $$; exec sleep 600' &
(setsid sh -c 'trap "" TERM; echo $$; sleep 600 & echo $!; wait' &)
echo $$
wait; while :; do sleep 600; done`

// members is the number of processes that wrapper starts, and wrapper itself.
const members = 4

// unmarked clears its environment, so that it can be found only by its parents.
const unmarked = `env -i "$(command -v setsid)" "$(command -v sh)" -c 'trap "" TERM; echo $$; while :; do sleep 600; done' &
`

// pipe returns the path to which a script writes with echo, and a function that reads a
// line.
func pipe(t *testing.T) (path string, lines func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "pids")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0) // with O_RDWR, reads never reach the end
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	scanner := bufio.NewScanner(f)
	return path, func() string {
		require.True(t, scanner.Scan(), scanner.Err())
		return strings.TrimSpace(scanner.Text())
	}
}

func readPids(t *testing.T, lines func() string, n int) (pids []string) {
	t.Helper()
	for range n {
		pids = append(pids, lines())
		require.False(t, gone(pids[len(pids)-1]))
	}
	return pids
}

func gone(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func shell(ctx context.Context, script string, output string) *Process {
	return New(ctx, "sh", "-c", "exec >>"+output+" 2>/dev/null; "+script)
}

// TestEnd: no process that a process has started is left after it was ended, even if all
// ignore SIGTERM.
func TestEnd(t *testing.T) {
	output, lines := pipe(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	p := shell(ctx, unmarked+wrapper, output)
	p.Grace = 50 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- p.Run() }()
	pids := readPids(t, lines, members+1)
	why := errors.New("why")
	cancel(why)
	require.ErrorIs(t, <-ended, why)
	for _, pid := range pids {
		require.True(t, gone(pid), pid)
	}
}

// TestLeft: if a process ends by itself, the processes that it leaves in its group are ended.
func TestLeft(t *testing.T) {
	output, lines := pipe(t)
	p := shell(t.Context(), `sleep 600 & echo $!; exit 3`, output)
	err := p.Run()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.True(t, gone(lines()))
}

func TestNoProgram(t *testing.T) {
	require.ErrorIs(t, New(t.Context(), "/no/such/program").Run(), os.ErrNotExist)
}

const role = "CHILD_TEST_ROLE"

// worker runs a test of this package in another process.
func worker(t *testing.T, test, output string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$")
	c.Env = append(os.Environ(), role+"="+output)
	require.NoError(t, c.Start())
	return c
}

// TestReaper: however a worker dies, the processes of its children die, too, even if its reaper was
// killed before.
func TestReaper(t *testing.T) {
	if output := os.Getenv(role); output != "" {
		if err := Guard(); err != nil {
			t.Fatal(err)
		}
		_ = shell(context.Background(), wrapper, output).Run()
		return
	}
	for name, killFirst := range map[string]bool{"killed": false, "after its reaper": true} {
		t.Run(name, func(t *testing.T) {
			output, lines := pipe(t)
			c := worker(t, "TestReaper", output)
			pids := readPids(t, lines, members)
			id := marksOf(t, pids[0])
			first := reapers(id)
			require.Len(t, first, 1)
			require.NotEqual(t, c.Process.Pid, first[0].parent)
			if killFirst {
				require.NoError(t, syscall.Kill(first[0].pid, syscall.SIGKILL))
				require.Eventually(t, func() bool {
					now := reapers(id)
					return len(now) == 1 && now[0].pid != first[0].pid
				}, deadline, often)
			}
			require.NoError(t, c.Process.Kill())
			_ = c.Wait()
			for _, pid := range pids {
				require.Eventually(t, func() bool { return gone(pid) }, deadline, often, pid)
			}
			require.Eventually(t, func() bool { return len(reapers(id)) == 0 }, deadline, often)
		})
	}
}

// marksOf returns the id of the worker from which a process descends.
func marksOf(t *testing.T, pid string) string {
	t.Helper()
	p, ok := look("/proc/" + pid)
	require.True(t, ok)
	id, _, _ := strings.Cut(p.mark, ".")
	require.NotEmpty(t, id)
	return id
}

// reapers returns the reapers of a worker.
func reapers(id string) (found []process) {
	for _, p := range census() {
		arguments, _ := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/cmdline")
		if string(arguments) == fmt.Sprintf("%s\x00%s.\x00", reaperName, id) {
			found = append(found, p)
		}
	}
	return found
}
