//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// patience is how long a command may take. It usually takes seconds.
	patience = 3 * time.Minute
	// grace is how long an interrupted command may take to end cleanly.
	grace = time.Minute
)

// foreign matches the variables of the user's own mirror, which must not affect the demo. With NATS_URL,
// for example, the demo would publish its list to a real broker.
var foreign = regexp.MustCompile(`^(?:FILTER|LIMIT|PLATFORMS|RATE_LIMITS|MAX_ATTEMPTS|METRICS_ADDR|NATS_.*|MIRROR_.*|CHUNK_.*)=`)

// planner is bin/planner with its environment.
type planner struct {
	path     string
	settings []string
	env      []string
}

func newPlanner(settings map[string]string) (*planner, error) {
	path, err := filepath.Abs(filepath.Join("bin", "planner"))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("bin/planner is missing, use make demo: %w", err)
	}
	p := &planner{path: path}
	for name, value := range settings {
		p.settings = append(p.settings, name+"="+value)
	}
	slices.Sort(p.settings)
	for _, variable := range os.Environ() {
		if !foreign.MatchString(variable) {
			p.env = append(p.env, variable)
		}
	}
	p.env = append(p.env, p.settings...)
	return p, nil
}

func (p *planner) showSettings() {
	fmt.Println()
	for _, setting := range p.settings {
		fmt.Println("$ export " + setting)
	}
}

// run runs a command, and shows it with its output. It returns an error unless the command ends with the
// expected exit code.
func (p *planner) run(ctx context.Context, expected int, args ...string) error {
	return p.start(ctx, os.Stdout, expected, args)
}

// output runs a command that should succeed, and returns its output.
func (p *planner) output(ctx context.Context, args ...string) (string, error) {
	var printed strings.Builder
	err := p.start(ctx, io.MultiWriter(os.Stdout, &printed), exitDone, args)
	return printed.String(), err
}

func (p *planner) start(ctx context.Context, stdout io.Writer, expected int, args []string) error {
	line := "planner " + strings.Join(args, " ")
	fmt.Printf("\n$ %s\n", line)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	command := exec.CommandContext(ctx, p.path, args...)
	command.Env = p.env
	command.Stdout, command.Stderr = stdout, os.Stderr
	// The command is in a process group of its own. Otherwise, it would also receive the interrupt of the
	// terminal, and a second interrupt ends it at once.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = grace
	err := command.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", line, ctx.Err())
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return fmt.Errorf("%s: %w", line, err)
	}
	if code := command.ProcessState.ExitCode(); code != expected {
		return fmt.Errorf("%s ended with exit code %d, expected %d", line, code, expected)
	}
	return nil
}
