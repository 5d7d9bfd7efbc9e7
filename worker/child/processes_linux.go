package child

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// process is a process of this machine.
type process struct {
	pid, parent, group int
	started            string // time since boot, which identifies the process together with its pid
	mark               string // value of variable; not readable for processes of other users
}

// census returns all live processes except this one and the first of the machine or
// container.
func census() []process {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	all := make([]process, 0, len(paths))
	for _, path := range paths {
		if found, ok := look(filepath.Dir(path)); ok {
			all = append(all, found)
		}
	}
	return all
}

// look reads a process from its folder in /proc; see proc_pid_stat(5). It reports false if
// the process has ended or does not belong in a census.
func look(dir string) (process, bool) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return process{}, false
	}
	// The name is in parentheses, and may contain parentheses.
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	const state, parent, group, started = 0, 1, 2, 19 // from the third field on
	fields := strings.Fields(string(after))
	if len(fields) <= started || strings.ContainsAny(fields[state], "ZXx") {
		return process{}, false
	}
	p := process{started: fields[started]}
	var errs [3]error
	p.pid, errs[0] = strconv.Atoi(filepath.Base(dir))
	p.parent, errs[1] = strconv.Atoi(fields[parent])
	p.group, errs[2] = strconv.Atoi(fields[group])
	if errors.Join(errs[:]...) != nil || p.pid <= 1 || p.pid == os.Getpid() {
		return process{}, false
	}
	environment, _ := os.ReadFile(dir + "/environ")
	for entry := range bytes.SplitSeq(environment, []byte{0}) {
		if mark, ok := bytes.CutPrefix(entry, []byte(variable+"=")); ok {
			p.mark = string(mark)
		}
	}
	return p, true
}

// signal sends a signal, unless the process has ended and another one has its pid now.
func (p process) signal(s syscall.Signal) {
	handle, err := os.FindProcess(p.pid) // a handle that no other process can take over
	if err != nil {
		return
	}
	defer func() { _ = handle.Release() }()
	if now, ok := look("/proc/" + strconv.Itoa(p.pid)); ok && now.started == p.started {
		_ = handle.Signal(s)
	}
}

// family returns the processes with the mark, the process with the pid root, and all their
// descendants. A mark that ends in a dot stands for all marks that begin with it.
func family(all []process, mark string, root int) []process {
	var found []process
	within := map[int]bool{}
	for {
		rest := all[:0:0]
		for _, p := range all {
			if marked(p.mark, mark) || p.pid == root || within[p.parent] {
				found, within[p.pid] = append(found, p), true
			} else {
				rest = append(rest, p)
			}
		}
		if len(rest) == len(all) {
			return slices.Clip(found)
		}
		all = rest
	}
}

// marked reports whether a process that has one mark belongs to the family of the other.
func marked(has, mark string) bool {
	if strings.HasSuffix(mark, ".") {
		return strings.HasPrefix(has, mark)
	}
	return has != "" && has == mark
}

// seesBytes is whether this system can report the bytes that processes move.
const seesBytes = true

// SeesBytes returns an error if the kernel does not report the bytes of connections: it was
// built without inet_diag, or this process may not ask.
func SeesBytes() error {
	_, err := connections()
	return err
}

// machine is a snapshot of all processes and connections, which all copies share.
type machine struct {
	at          time.Time
	processes   []process
	connections map[uint32]connection // by inode
	err         error
}

var (
	lastMu sync.Mutex
	last   machine
)

// connectionsOf returns the connections of a family, from a snapshot that is at most so old.
func connectionsOf(mark string, root int, age time.Duration) ([]connection, error) {
	lastMu.Lock()
	if now := time.Now(); now.Sub(last.at) > age {
		last = machine{at: now, processes: census()}
		last.connections, last.err = connections()
	}
	m := last
	lastMu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	found := map[uint32]connection{} // processes may share one
	for _, p := range family(m.processes, mark, root) {
		for _, inode := range sockets(p.pid) {
			if c, ok := m.connections[inode]; ok {
				found[inode] = c
			}
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// sockets returns the inodes of a process's sockets.
func sockets(pid int) []uint32 {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir)
	var inodes []uint32
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue
		}
		text, ok := strings.CutPrefix(target, "socket:[")
		if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32); ok && err == nil {
			inodes = append(inodes, uint32(inode))
		}
	}
	return inodes
}

// connections returns all TCP connections by inode; see sock_diag(7).
func connections() (map[uint32]connection, error) {
	all := map[uint32]connection{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		answers, err := netlink.SocketDiagTCPInfo(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // the next snapshot has the rest
			return nil, fmt.Errorf("asking the kernel for the connections: %w", err)
		}
		for _, a := range answers {
			if a.InetDiagMsg == nil || a.TCPInfo == nil {
				continue
			}
			cookie := a.InetDiagMsg.ID.Cookie
			all[a.InetDiagMsg.INode] = connection{
				id:       uint64(cookie[1])<<32 | uint64(cookie[0]),
				received: int64(a.TCPInfo.Bytes_received),
				sent:     int64(a.TCPInfo.Bytes_acked),
				unsent:   a.InetDiagMsg.WQueue > 0,
			}
		}
	}
	return all, nil
}
