package child

import (
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	// sweepTime bounds how long is waited for killed processes to be gone: one that
	// the kernel keeps in a system call dies later.
	sweepTime = 5 * time.Second
	// sweepPause is between two looks at what is left.
	sweepPause = 5 * time.Millisecond
)

// signal sends a signal to the process and all that it has started.
func (p *Process) signal(s syscall.Signal) error {
	for _, other := range family(census(), p.mark, p.Process.Pid) {
		if other.group != p.Process.Pid {
			other.signal(s)
		}
	}
	err := syscall.Kill(-p.Process.Pid, s)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// sweep kills all processes of a family, until none is left.
func sweep(mark string) {
	for end := time.Now().Add(sweepTime); time.Now().Before(end); time.Sleep(sweepPause) {
		left := family(census(), mark, 0)
		if len(left) == 0 {
			return
		}
		for _, other := range left {
			other.signal(syscall.SIGKILL)
		}
	}
}
