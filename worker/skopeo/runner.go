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
	// ErrNotInstalled is returned if the program does not exist or this user may not run it.
	ErrNotInstalled = exit.Usage.New("skopeo is not installed")
	// ErrTooOld is returned if the program is older than the oldest version that works.
	ErrTooOld = exit.Usage.New("skopeo is too old")
)

// oldest is the oldest version of skopeo that works, that of Debian 12. Older versions lack some of
// the flags that this package uses.
const oldest = "1.9.3"

// instead is what the operator can do about a skopeo that cannot be used.
const instead = "install skopeo " + oldest + " or newer, set SKOPEO_PATH, or copy without it: COPY_ENGINE=builtin"

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
	// Path is the program, searched for in PATH if it has no slash. If empty, it is "skopeo".
	Path string
	// Insecure are the registries, as host[:port], that may use plain HTTP or a certificate
	// that cannot be verified.
	Insecure []string
	// Credentials returns the credentials of a repository that skopeo does not find itself, or
	// anonymous ones. skopeo gets them in a file. It is optional.
	Credentials func(ctx context.Context, repository string) (containers.Credential, error)
	// Stall is how long a copy may move no byte before it is ended; 0 means no limit.
	// child.SeesBytes reports whether stalls can be noticed on this system.
	Stall time.Duration
	// Timeout is how long a copy may take before it is ended; 0 means no limit.
	Timeout time.Duration
	// Grace is the time between SIGTERM and SIGKILL; 0 means the default of package child.
	Grace time.Duration
	// AtOnce is how many processes Turn and Slot allow at the same time; 0 is any number.
	AtOnce int

	once    sync.Once // makes slots
	slots   chan struct{}
	batches batches
	root    string // folder in place of / for policy files; set by tests
	policy  ownPolicy
	server  server
}

// Version returns the version of the installed skopeo, such as "1.9.3". The error may wrap
// ErrNotInstalled or ErrTooOld. A version that cannot be parsed counts as new enough.
func (r *Runner) Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, r.path(), "--version").Output()
	if err != nil {
		return "", r.explain(err)
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(string(out)), versionPrefix)
	if !ok {
		return "", fmt.Errorf("%s --version does not print %q and a version; check SKOPEO_PATH", r.path(), strings.TrimSpace(versionPrefix))
	}
	version, _, _ = strings.Cut(version, " ") // some builds add "commit: …"
	if isOld(version) {
		return "", fmt.Errorf("%w: program %q is version %s; %s", ErrTooOld, r.path(), version, instead)
	}
	return version, nil
}

// isOld reports whether a version is older than oldest. Suffixes such as -dev do not count.
func isOld(version string) bool {
	v, err := semver.NewVersion(version)
	if err != nil {
		return false
	}
	return semver.New(v.Major(), v.Minor(), v.Patch(), "", "").LessThan(semver.MustParse(oldest))
}

// CopyManifest copies the manifest with this digest, and everything that it refers to, from one
// repository to another, under the same digest and without a tag. It tries once, and ends skopeo
// at the first 429, which skopeo would wait out. The error is an *Error. If ctx ended the copy,
// the error wraps ctx's error or budget.ErrLate; if Stall did, child.ErrStalled; if Timeout did,
// context.DeadlineExceeded. When skopeo requests the manifest, CopyManifest calls budget.Sent.
//
// skopeo verifies signatures, but does not copy them. Signatures in a registry are mirrored by
// their tags. skopeo would write others to a folder of this machine, or fail if registries.d names
// no folder.
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

// explain returns the error for a skopeo that could not be started. It is ErrNotInstalled, with the
// settings that help, if the program does not exist or this user may not run it.
func (r *Runner) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: this user may not run program %q (permission denied); %s", ErrNotInstalled, r.path(), instead)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: program %q not found; %s", ErrNotInstalled, r.path(), instead)
	}
	return fmt.Errorf("running %s: %w", r.path(), err)
}

// noPolicy matches skopeo's message if it finds no policy: that of versions up to 1.23, and that of
// newer ones.
var noPolicy = regexp.MustCompile(`loading trust policy: (?:open .*: no such file or directory|.*no policy\.json file found)`)

// policyArguments returns flags with which every version of skopeo uses the same policy: the first
// file of those that the newest version looks for. If no policy exists, skopeo accepts every image,
// because it does not work without a policy.
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

// ownPolicy remembers the result of findsNoPolicy.
type ownPolicy struct {
	mu          sync.Mutex
	known, none bool
}

// findsNoPolicy reports whether skopeo, which may have been built with other paths, finds no policy.
// It runs skopeo once and remembers the result, because that takes as long as a small copy.
func (r *Runner) findsNoPolicy(ctx context.Context) (bool, error) {
	r.policy.mu.Lock()
	defer r.policy.mu.Unlock()
	if r.policy.known {
		return r.policy.none, nil
	}
	// skopeo reads the policy before it fails to open this image.
	const nowhere = "dir:/dev/null/nowhere"
	command := exec.CommandContext(ctx, r.path(), "copy", nowhere, nowhere)
	command.WaitDelay = time.Second // a wrapper may leave processes that hold the pipe open
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
