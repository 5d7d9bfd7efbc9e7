package skopeo

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"
)

const (
	// policyVariable names the policy instead of the folders (signature.DefaultPolicy of
	// containers/image 5.42).
	policyVariable = "CONTAINERS_POLICY_JSON"

	// policyFile is a containers-policy.json(5) below a folder with configuration.
	policyFile = "containers/policy.json"
)

// policyFolders have the policy of the administrator, and that of the distribution, which
// skopeo reads since 1.24 (adminOverrideConfigPath and systemConfigPath of
// containers/storage 1.65).
var policyFolders = []string{"/etc", "/usr/share"}

// noPolicy is what skopeo says where it finds none, up to 1.23 and since.
var noPolicy = regexp.MustCompile(`loading trust policy: (?:open .*: no such file or directory|.*no policy\.json file found)`)

// policyArguments makes one policy hold for every version of skopeo: the first one that
// any version finds, in the order of the newest. skopeo refuses to work without a policy,
// so that everything is accepted where there is none at all.
func (r *Runner) policyArguments(ctx context.Context) ([]string, error) {
	if path := os.Getenv(policyVariable); path != "" {
		return []string{"--policy", path}, nil
	}
	for _, path := range r.policies() {
		if isThere(path) {
			return []string{"--policy", path}, nil
		}
	}
	none, err := r.findsNoPolicy(ctx)
	if err != nil || !none {
		return nil, err
	}
	return []string{"--insecure-policy"}, nil
}

// policies are the files in which a policy may be, the one that counts first.
func (r *Runner) policies() []string {
	var paths []string
	if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		paths = append(paths, filepath.Join(config, policyFile))
	}
	// The newest skopeo does not look here where XDG_CONFIG_HOME is set. Those up to 1.23
	// look here only.
	if home := homeFolder(); home != "" {
		paths = append(paths, filepath.Join(home, ".config", policyFile))
	}
	for _, folder := range policyFolders {
		paths = append(paths, filepath.Join(r.root, folder, policyFile))
	}
	return paths
}

// isThere reports whether there is a file, or may be one that cannot be seen: skopeo then
// says what is wrong with it.
func isThere(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
}

// homeFolder is where skopeo takes it from.
func homeFolder() string {
	if home := os.Getenv("HOME"); home != "" {
		return home
	}
	if self, err := user.Current(); err == nil {
		return self.HomeDir
	}
	return ""
}

// asked is whether a skopeo found no policy of its own.
type asked struct {
	mu          sync.Mutex
	known, none bool
}

// findsNoPolicy asks skopeo, which may have been built to look elsewhere. It is asked
// once: it takes as long as a small copy.
func (r *Runner) findsNoPolicy(ctx context.Context) (bool, error) {
	r.policy.mu.Lock()
	defer r.policy.mu.Unlock()
	if r.policy.known {
		return r.policy.none, nil
	}
	// It reads the policy first. What it is told to copy cannot be, and is nowhere.
	const nowhere = "dir:/dev/null/nowhere"
	command := exec.CommandContext(ctx, r.path(), "copy", nowhere, nowhere)
	command.WaitDelay = time.Second // what a wrapper leaves behind may hold the pipe
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
