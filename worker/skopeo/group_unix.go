//go:build unix

package skopeo

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// isolate gives the process a group of its own, with the helpers it starts: a
// Ctrl-C at the terminal then ends us, and we end it.
func isolate(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(command.SysProcAttr)
}

// signalGroup sends a signal to the process and the helpers it has started.
func signalGroup(process *os.Process, signal syscall.Signal) error {
	err := syscall.Kill(-process.Pid, signal)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
