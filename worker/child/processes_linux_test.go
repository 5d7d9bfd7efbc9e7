package child

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFamily: only the mark or parentage makes a process a member.
func TestFamily(t *testing.T) {
	all := []process{
		{pid: 2, parent: 0}, {pid: 3, parent: 2}, {pid: 40, parent: 1, group: 40},
		{pid: 100, parent: 1, group: 100},                  // this process
		{pid: 103, parent: 102, group: 101},                // listed before its parent
		{pid: 101, parent: 100, group: 101, mark: "us.1"},  // a copy
		{pid: 102, parent: 101, group: 101},                // its child, which has cleared its environment
		{pid: 104, parent: 1, group: 104, mark: "us.1"},    // a daemon
		{pid: 110, parent: 100, group: 110, mark: "us.10"}, // another copy
		{pid: 120, parent: 1, group: 120, mark: "they.1"},  // of another worker
		{pid: 130, parent: 100, group: 130},                // just started, without its mark yet
	}
	pids := func(mark string, root int) []int {
		pids := []int{}
		for _, p := range family(all, mark, root) {
			pids = append(pids, p.pid)
		}
		return pids
	}
	require.ElementsMatch(t, []int{101, 102, 103, 104}, pids("us.1", 0))
	require.ElementsMatch(t, []int{110}, pids("us.10", 0))
	require.ElementsMatch(t, []int{130}, pids("us.13", 130))
	require.ElementsMatch(t, []int{101, 102, 103, 104, 110}, pids("us.", 0))
	require.Empty(t, pids("", 0))
	require.Empty(t, pids("nobody.", 0))
}

func TestCensus(t *testing.T) {
	c := exec.Command("sleep", "600")
	c.Env = []string{"A=b", variable + "=x.1", "C=d"}
	require.NoError(t, c.Start())
	t.Cleanup(func() { _, _ = c.Process.Kill(), c.Wait() })
	var found process
	for _, p := range census() {
		require.Greater(t, p.pid, 1)
		require.NotEqual(t, os.Getpid(), p.pid)
		if p.pid == c.Process.Pid {
			found = p
		}
	}
	require.NotEmpty(t, found.started)
	require.Equal(t, process{c.Process.Pid, os.Getpid(), syscall.Getpgrp(), found.started, "x.1"}, found)

	found.started = "0"
	found.signal(syscall.SIGKILL) // no longer the process with that pid
	found, _ = look(fmt.Sprintf("/proc/%d", c.Process.Pid))
	found.signal(syscall.SIGKILL)
	require.Eventually(t, func() bool {
		_, lives := look(fmt.Sprintf("/proc/%d", c.Process.Pid))
		return !lives
	}, deadline, often, "a zombie is none that lives")
}
