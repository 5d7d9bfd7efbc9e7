package child

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// seesBytes says whether what processes move can be seen on this system.
const seesBytes = true

// SeesBytes returns an error where the kernel does not say what the connections of a
// process have moved: it was built without inet_diag, or something forbids to ask.
func SeesBytes() error {
	_, err := connections()
	return err
}

// machine is all processes and connections at one time, for all copies together.
type machine struct {
	at          time.Time
	processes   []process
	connections map[uint32]connection // by inode
	err         error
}

var (
	seeing sync.Mutex
	seen   machine
)

// connectionsOf returns the connections of the processes with the mark, of the one with
// the pid root, and of all that descend from them, as they were at most age ago.
func connectionsOf(mark string, root int, age time.Duration) ([]connection, error) {
	seeing.Lock()
	if now := time.Now(); now.Sub(seen.at) > age {
		seen = machine{at: now, processes: census()}
		seen.connections, seen.err = connections()
	}
	m := seen
	seeing.Unlock()
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

// sockets are the inodes of a process' sockets.
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

// connections asks the kernel for all TCP connections (sock_diag(7)).
func connections() (map[uint32]connection, error) {
	all := map[uint32]connection{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		answers, err := netlink.SocketDiagTCPInfo(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // what is missing comes with the next look
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
