package child

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// process is one of this machine.
type process struct {
	pid, parent, group int
	started            string // since boot; with the pid it is never used twice
	mark               string // value of variable; of a process of another user never known
}

// census returns all processes that live, but the first of the machine or container and
// this one.
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

// look reads what is known of a process (proc_pid_stat(5)). It reports false of one that
// is not for a census, or has ended, collected by its parent or not.
func look(dir string) (process, bool) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return process{}, false
	}
	// The name is in parentheses, and may hold some itself.
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
		return process{}, false // never the one that all descend from, nor ourselves
	}
	environment, _ := os.ReadFile(dir + "/environ")
	for entry := range bytes.SplitSeq(environment, []byte{0}) {
		if mark, ok := bytes.CutPrefix(entry, []byte(variable+"=")); ok {
			p.mark = string(mark)
		}
	}
	return p, true
}

// signal sends a signal, unless the process has ended and another one has its pid.
func (p process) signal(s syscall.Signal) {
	handle, err := os.FindProcess(p.pid) // which stands for that process from here on
	if err != nil {
		return
	}
	defer func() { _ = handle.Release() }()
	if now, ok := look("/proc/" + strconv.Itoa(p.pid)); ok && now.started == p.started {
		_ = handle.Signal(s)
	}
}

// family returns the processes with a mark, or with one of the marks that begin with it
// where it ends in a dot, the one with the pid root, and all that descend from them.
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

// marked reports whether a process with the one mark is of the family with the other.
func marked(has, mark string) bool {
	if strings.HasSuffix(mark, ".") {
		return strings.HasPrefix(has, mark)
	}
	return has != "" && has == mark
}
