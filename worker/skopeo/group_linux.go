package skopeo

import "syscall"

// dieWithParent lets the kernel kill the process when we are killed: a worker
// that got SIGKILL leaves no copy behind that nobody watches.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }
