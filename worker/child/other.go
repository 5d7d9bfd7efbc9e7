//go:build unix && !linux

package child

import (
	"errors"
	"syscall"
	"time"
)

// errLinux says what is not to be had here.
var errLinux = errors.New("this takes Linux")

const seesBytes = false

// SeesBytes returns an error: what the connections of a process move is not known here.
func SeesBytes() error { return errLinux }

func connectionsOf(string, int, time.Duration) ([]connection, error) { return nil, errLinux }

func dieWithParent(*syscall.SysProcAttr) {}

type process struct{ group int }

func (process) signal(syscall.Signal) {}

func census() []process { return nil }

func family([]process, string, int) []process { return nil }

// Guard returns an error: what a process that is killed has started goes on here.
func Guard() error { return errLinux }
