// Package skopeo runs skopeo, which copies images from one registry to another.
package skopeo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/policy"
)

// Errors about the program of Runner.Path.
var (
	// ErrNotInstalled is returned if it does not exist, or may not be run.
	ErrNotInstalled = exit.Usage.New("skopeo is not installed")
	// ErrTooOld is returned if its version is older than Oldest.
	ErrTooOld = exit.Usage.New("skopeo is too old")
)

// Oldest is the oldest version that works, which Debian 12 has. Older ones have not all of the
// flags that are used here.
const Oldest = "1.9.3"

// instead is what to do about a skopeo that cannot be used.
const instead = "install skopeo " + Oldest + " or newer, set SKOPEO_PATH, or copy without it: COPY_ENGINE=builtin"

const (
	// defaultPath is searched for in PATH.
	defaultPath = "skopeo"

	versionPrefix = "skopeo version "
)

// Runner runs skopeo. It is safe for concurrent use; each call starts a process.
//
// The processes inherit this one's environment, which package environment confines. It names
// proxies, CAs and files of credentials, so that no secret is on a command line.
type Runner struct {
	// Path is the program, searched for in PATH if it has no slash; empty is "skopeo".
	Path string
	// Insecure are the registries, host[:port], whose certificates are not verified and
	// that may speak plain HTTP.
	Insecure []string
	// Credentials returns those of a repository that skopeo does not find itself, or an
	// anonymous credential; skopeo gets them in a file. It is optional.
	Credentials func(ctx context.Context, repository string) (containers.Credential, error)
	// Stall ends a copy that moves no byte for so long; 0 is no limit. child.SeesBytes
	// reports whether stalls can be noticed.
	Stall time.Duration
	// Timeout ends a copy that takes longer; 0 is no limit.
	Timeout time.Duration
	// Grace is the time between SIGTERM and SIGKILL; 0 is the default of package child.
	Grace time.Duration

	root   string // of the policy files, for tests
	policy ownPolicy
	server server
}

// Version returns the version of the installed skopeo, such as "1.9.3", ErrNotInstalled or
// ErrTooOld. A version that is not of the usual form is taken for a new one.
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
	if isOld(version) {
		return "", fmt.Errorf("%w: program %q is version %s; %s", ErrTooOld, r.path(), version, instead)
	}
	return version, nil
}

// isOld reports whether a version is older than Oldest. Suffixes such as -dev do not count.
func isOld(version string) bool {
	v, err := semver.NewVersion(version)
	if err != nil {
		return false
	}
	return semver.New(v.Major(), v.Minor(), v.Patch(), "", "").LessThan(semver.MustParse(Oldest))
}

// CopyManifest copies the manifest with this digest, and all that it refers to, from one
// repository to another, under the same digest and without a tag. It tries once, and ends at
// the first 429, because skopeo would wait in the process. The error is an *Error. If ctx
// ended the copy, it wraps ctx's error, or budget.ErrLate; if Stall did, child.ErrStalled; if
// Timeout did, context.DeadlineExceeded. When skopeo requests the manifest, CopyManifest calls
// budget.Sent.
//
// skopeo verifies signatures and does not copy them: those in a registry are mirrored by their
// tags, and it would write others to a folder of this machine, or fail if registries.d does
// not name a place for them.
func (r *Runner) CopyManifest(ctx context.Context, source reference.Repository, digest reference.Digest, destination reference.Repository) error {
	arguments, err := r.policyArguments(ctx)
	if err != nil {
		return failedToStart(ctx, err)
	}
	c := &copying{source: source.Registry(), destination: destination.Registry()}
	c.arguments = append(append([]string{"--debug"}, arguments...), "copy", "--preserve-digests", "--remove-signatures") // debug for limitLine
	if r.insecure(source) {
		c.arguments = append(c.arguments, "--src-tls-verify=false")
	}
	if r.insecure(destination) {
		c.arguments = append(c.arguments, "--dest-tls-verify=false")
	}
	for flag, repository := range map[string]reference.Repository{"--src-authfile=": source, "--dest-authfile=": destination} {
		if r.Credentials == nil {
			break
		}
		found, err := r.Credentials(ctx, repository.String())
		if err != nil {
			return failedToStart(ctx, err)
		}
		closed, err := c.login(flag, repository.Registry(), found)
		if err != nil {
			return failedToStart(ctx, err)
		}
		defer closed()
	}
	c.arguments = append(c.arguments, "docker://"+source.String()+"@"+digest.String(), "docker://"+destination.String()+"@"+digest.String())
	err = r.run(ctx, c)
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

// explain returns ErrNotInstalled, with the settings that help, if skopeo could not be
// started because it does not exist.
func (r *Runner) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: program %q must not be run by this user (permission denied); %s", ErrNotInstalled, r.path(), instead)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: program %q not found; %s", ErrNotInstalled, r.path(), instead)
	}
	return fmt.Errorf("running %s: %w", r.path(), err)
}

// noPolicy matches skopeo's message if it finds no policy, up to version 1.23 and since.
var noPolicy = regexp.MustCompile(`loading trust policy: (?:open .*: no such file or directory|.*no policy\.json file found)`)

// policyArguments makes every version of skopeo use the same policy: the first that any
// version finds, in the order of the newest. If there is none, everything is accepted,
// because skopeo does not work without a policy.
func (r *Runner) policyArguments(ctx context.Context) ([]string, error) {
	if path := policy.Find(r.root); path != "" {
		return []string{"--policy", path}, nil
	}
	none, err := r.findsNoPolicy(ctx)
	if err != nil || !none {
		return nil, err
	}
	return []string{"--insecure-policy"}, nil
}

// ownPolicy is whether skopeo finds no policy in places of its own.
type ownPolicy struct {
	mu          sync.Mutex
	known, none bool
}

// findsNoPolicy runs skopeo, which may have been built to look elsewhere, and reports whether
// it finds no policy. It does so once, because that takes as long as a small copy.
func (r *Runner) findsNoPolicy(ctx context.Context) (bool, error) {
	r.policy.mu.Lock()
	defer r.policy.mu.Unlock()
	if r.policy.known {
		return r.policy.none, nil
	}
	// skopeo reads the policy before it fails to open this image.
	const nowhere = "dir:/dev/null/nowhere"
	command := exec.CommandContext(ctx, r.path(), "copy", nowhere, nowhere)
	command.WaitDelay = time.Second // processes that a wrapper leaves may hold the pipe open
	said, err := command.CombinedOutput()
	var failed *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil && !errors.As(err, &failed):
		return false, r.explain(err)
	}
	r.policy.known, r.policy.none = true, noPolicy.Match(said)
	return r.policy.none, nil
}
