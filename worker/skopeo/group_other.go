//go:build unix && !linux

package skopeo

import "syscall"

// dieWithParent needs Linux; elsewhere a copy outlives a killed worker by the
// time it takes.
func dieWithParent(*syscall.SysProcAttr) {}
