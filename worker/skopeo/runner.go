// Package skopeo runs the program of that name, which moves the bytes of
// images from one registry to another.
package skopeo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

// ErrNotInstalled says that there is no skopeo where it was looked for.
var ErrNotInstalled = errors.New("skopeo is not installed")

const (
	// defaultPath is looked for in PATH.
	defaultPath = "skopeo"

	versionPrefix = "skopeo version "
)

// Runner runs skopeo. It is safe for concurrent use; each call is a process.
//
// Processes inherit this one's environment, which package environment confines, and with
// it proxies, CAs and where credentials are: nothing secret is on a command line.
type Runner struct {
	// Path is the program, looked for in PATH where it has no slash; empty is "skopeo".
	Path string
	// Insecure are the registries, host[:port], to talk to without TLS
	// verification, or in plain HTTP.
	Insecure []string
	// Stall ends a copy that moves no byte for so long; 0 is none. child.SeesBytes says
	// whether that can be seen.
	Stall time.Duration
	// Timeout ends a copy that takes longer, whatever it moves; 0 is none.
	Timeout time.Duration
	// Grace is the time between SIGTERM and SIGKILL; 0 is that of package child.
	Grace time.Duration

	root   string // of the system's files, for tests
	policy asked
}

// Version returns the version of the installed skopeo, such as "1.9.3".
// ErrNotInstalled says that there is none.
func (r *Runner) Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, r.path(), "--version").Output()
	if err != nil {
		return "", r.explain(err)
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(string(out)), versionPrefix)
	if !ok {
		return "", fmt.Errorf("%s does not answer as skopeo does; check SKOPEO_PATH", r.path())
	}
	version, _, _ = strings.Cut(version, " ") // some builds add "commit: …"
	return version, nil
}

// CopyManifest copies the manifest with this digest, and what it refers to, from one
// repository to another ("quay.io/osism/osism"), under the same digest and
// without a tag. It tries once, and gives up at the first 429. The error is an
// *Error. If ctx ended the copy, it wraps ctx's error, or budget.ErrLate; if Stall did,
// child.ErrStalled; if Timeout did, context.DeadlineExceeded. When skopeo requests the
// manifest, CopyManifest calls budget.Sent.
func (r *Runner) CopyManifest(ctx context.Context, source reference.Repository, digest reference.Digest, destination reference.Repository) error {
	policy, err := r.policyArguments(ctx)
	if err != nil {
		return failedToStart(ctx, err)
	}
	arguments := append([]string{"--debug"}, policy...) // debug for limitLine
	arguments = append(arguments, "copy", "--preserve-digests")
	if r.insecure(source) {
		arguments = append(arguments, "--src-tls-verify=false")
	}
	if r.insecure(destination) {
		arguments = append(arguments, "--dest-tls-verify=false")
	}
	arguments = append(arguments, "docker://"+source.String()+"@"+digest.String(), "docker://"+destination.String()+"@"+digest.String())
	err = r.run(ctx, source.Registry(), destination.Registry(), arguments)
	if failed := (*Error)(nil); errors.As(err, &failed) {
		failed.blame(source.Registry(), destination.Registry())
	}
	return err
}

func (r *Runner) path() string {
	if r.Path == "" {
		return defaultPath
	}
	return r.Path
}

func (r *Runner) insecure(repository reference.Repository) bool {
	for _, insecure := range r.Insecure {
		if strings.EqualFold(repository.Registry(), insecure) {
			return true
		}
	}
	return false
}

// explain tells a skopeo that could not be started from one that failed.
func (r *Runner) explain(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: program %q not found; install skopeo, set SKOPEO_PATH, or copy without it: COPY_ENGINE=builtin", ErrNotInstalled, r.path())
	}
	return fmt.Errorf("running %s: %w", r.path(), err)
}
