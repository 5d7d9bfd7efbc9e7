//go:build unix && !linux

package child

import (
	"errors"
	"syscall"
	"time"
)

var errLinux = errors.New("only Linux can do this")

const seesBytes = false

// SeesBytes returns an error: this system does not report the bytes of connections.
func SeesBytes() error { return errLinux }

func connectionsOf(string, int, time.Duration) ([]connection, error) { return nil, errLinux }

func dieWithParent(*syscall.SysProcAttr) {}

type process struct{ group int }

func (process) signal(syscall.Signal) {}

func census() []process { return nil }

func family([]process, string, int) []process { return nil }

// Guard returns an error: on this system, the children of a killed process keep running.
func Guard() error { return errLinux }
