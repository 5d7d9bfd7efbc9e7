package bench

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// used is what a program took, its children included.
type used struct {
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_seconds"`
	Memory  float64 `json:"memory_mb"`       // of all its processes together, at their largest
	Ended   string  `json:"ended,omitempty"` // how, if not well
	output  string
}

const (
	// sampleInterval is how often memory is looked at. The kernel's own maximum is of no use:
	// it includes that of the process which starts the program.
	sampleInterval = 100 * time.Millisecond

	// endPatience is how long a program may take to end that has run out of time.
	endPatience = 10 * time.Second
)

// outOfTime is how a program ended that took longer than the limit.
const outOfTime = "out of time"

// process is a program that runs in a session of its own.
type process struct {
	command *exec.Cmd
	output  bytes.Buffer
	began   time.Time
	largest chan float64
	done    context.CancelFunc
}

// launch starts a program, which is ended when the context is.
func launch(ctx context.Context, b *testing.B, environment []string, name string, arguments ...string) *process {
	b.Helper()
	p := &process{command: exec.CommandContext(ctx, find(b, name), arguments...), largest: make(chan float64, 1)}
	p.command.Env, p.command.Dir = environment, b.TempDir()
	p.command.Stdout, p.command.Stderr = &p.output, &p.output
	p.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p.command.Cancel = func() error { return syscall.Kill(-p.command.Process.Pid, syscall.SIGTERM) }
	p.command.WaitDelay = endPatience
	p.began = time.Now()
	require.NoError(b, p.command.Start())
	sampling, done := context.WithCancel(context.WithoutCancel(ctx))
	p.done = done
	go p.sample(sampling)
	return p
}

// wait returns what the program took.
func (p *process) wait(ctx context.Context) used {
	err := p.command.Wait()
	u := used{Seconds: time.Since(p.began).Seconds(), output: p.output.String()}
	p.done()
	u.Memory = <-p.largest
	state := p.command.ProcessState
	u.CPU = (state.UserTime() + state.SystemTime()).Seconds()
	switch {
	case ctx.Err() != nil:
		u.Ended = outOfTime
	case err != nil:
		u.Ended = err.Error()
	}
	return u
}

// execute runs a program, for no longer than the limit.
func execute(b *testing.B, limit time.Duration, environment []string, name string, arguments ...string) used {
	b.Helper()
	find(b, name) // built before the time runs
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	return launch(ctx, b, environment, name, arguments...).wait(ctx)
}

// sample finds the largest memory of the program's processes together.
func (p *process) sample(ctx context.Context) {
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	largest, pid := 0., strconv.Itoa(p.command.Process.Pid)
	for {
		select {
		case <-ctx.Done():
			p.largest <- largest
			return
		case <-tick.C:
			largest = max(largest, resident(pid))
		}
	}
}

// residentField is the field of /proc/PID/statm with the resident pages; see proc(5).
const residentField = 1

// resident returns the resident memory in MB of a process and of those below it; 0 on systems
// other than Linux. It reads little, because it takes time from what is measured.
func resident(pid string) float64 {
	dir := filepath.Join("/proc", pid)
	statm, err := os.ReadFile(filepath.Join(dir, "statm"))
	fields := strings.Fields(string(statm))
	if err != nil || len(fields) <= residentField {
		return 0 // it has ended
	}
	pages, _ := strconv.Atoi(fields[residentField])
	total := float64(pages*os.Getpagesize()) / (1 << 20)
	threads, _ := os.ReadDir(filepath.Join(dir, "task"))
	for _, thread := range threads {
		children, _ := os.ReadFile(filepath.Join(dir, "task", thread.Name(), "children"))
		for _, child := range strings.Fields(string(children)) {
			total += resident(child)
		}
	}
	return total
}
