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

// wrapper starts what a signal to its group does not reach, and says the pids of all: a
// session of its own, and a daemon with a child.
const wrapper = `trap "" TERM
setsid sh -c 'trap "" TERM; echo $$; exec sleep 600' &
(setsid sh -c 'trap "" TERM; echo $$; sleep 600 & echo $!; wait' &)
echo $$
wait; while :; do sleep 600; done`

// members of the wrapper's family.
const members = 4

// unmarked is what has cleared its environment: only its parents tell whose it is.
const unmarked = `env -i "$(command -v setsid)" "$(command -v sh)" -c 'trap "" TERM; echo $$; while :; do sleep 600; done' &
`

// pipe is where a script writes to with echo, whoever its stdout is inherited by.
func pipe(t *testing.T) (path string, lines func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "pids")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0) // never at its end
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

// TestEnd: nothing of what a process has started is left once it was ended, even where
// nobody heeds SIGTERM.
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

// TestLeft: what a process leaves in its group when it ends by itself is ended, too.
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

// worker runs a test of this package in a process of its own, whose output is read.
func worker(t *testing.T, test, output string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$")
	c.Env = append(os.Environ(), role+"="+output)
	require.NoError(t, c.Start())
	return c
}

// TestReaper: however a worker dies, what its children have started dies, too. That is
// so where its reaper has been killed before.
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

// marksOf is the id of the worker that a process descends from.
func marksOf(t *testing.T, pid string) string {
	t.Helper()
	p, ok := look("/proc/" + pid)
	require.True(t, ok)
	id, _, _ := strings.Cut(p.mark, ".")
	require.NotEmpty(t, id)
	return id
}

// reapers are those of a worker.
func reapers(id string) (found []process) {
	for _, p := range census() {
		arguments, _ := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/cmdline")
		if string(arguments) == fmt.Sprintf("%s\x00%s.\x00", reaperName, id) {
			found = append(found, p)
		}
	}
	return found
}
