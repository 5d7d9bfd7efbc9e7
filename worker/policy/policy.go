// Package policy finds the containers-policy.json(5) that decides which images may be copied.
package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/osism/skopeo-worker/shared/exit"
)

const (
	// variable names the policy file (signature.DefaultPolicy of containers/image 5.42).
	variable = "CONTAINERS_POLICY_JSON"

	// file is the path of a policy below a folder with configuration.
	file = "containers/policy.json"
)

// folders have the policy of the administrator and of the distribution. skopeo reads the
// second since 1.24 (adminOverrideConfigPath and systemConfigPath of containers/storage 1.65).
var folders = []string{"/etc", "/usr/share"}

// Find returns the path of the policy, or "" if there is none: the first file that any version
// of skopeo uses, in the order of the newest. root is the root of the system's files; "" is /.
func Find(root string) string {
	path, _ := find(root)
	return path
}

// find returns the path that Find does, and the state of the file; nil if it is not accessible,
// in which case reading it fails with the reason.
func find(root string) (string, fs.FileInfo) {
	if path := os.Getenv(variable); path != "" {
		info, _ := os.Stat(path)
		return path, info
	}
	for _, path := range paths(root) {
		info, err := os.Stat(path)
		if err == nil {
			return path, info
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return path, nil
		}
	}
	return "", nil
}

// paths returns the files that may be the policy, the first of which counts.
func paths(root string) []string {
	var paths []string
	if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		paths = append(paths, filepath.Join(config, file))
	}
	// The newest skopeo does not read this file if XDG_CONFIG_HOME is set. Versions up to
	// 1.23 read only this one.
	if home := homeFolder(); home != "" {
		paths = append(paths, filepath.Join(home, ".config", file))
	}
	for _, folder := range folders {
		paths = append(paths, filepath.Join(root, folder, file))
	}
	return paths
}

// homeFolder returns the home folder that skopeo uses.
func homeFolder() string {
	if home := os.Getenv("HOME"); home != "" {
		return home
	}
	if self, err := user.Current(); err == nil {
		return self.HomeDir
	}
	return ""
}

// Errors about a policy.
var (
	// ErrUnenforceable is returned if this program cannot apply the policy.
	ErrUnenforceable = exit.Usage.New("this program cannot enforce the signature policy")
	// ErrUnreadable is returned if the policy cannot be read.
	ErrUnreadable = errors.New("the signature policy cannot be read")
	// ErrRejected is returned for an image that the policy does not allow to be copied.
	ErrRejected = errors.New("rejected by the signature policy")
)

// acceptAnything is the type of the requirement that any image meets.
const acceptAnything = "insecureAcceptAnything"

// sigstoreSigned is the type of the requirement of a sigstore signature.
const sigstoreSigned = "sigstoreSigned"

// Policy is a containers-policy.json(5).
type Policy struct {
	Path string // "": there is none that rejects anything
	Text []byte
}

// loaded is the policy that Load has read last, because Load is called for each manifest.
var loaded last

// last is the result of reading a file, and the state of the file before that.
type last struct {
	mu     sync.Mutex
	info   fs.FileInfo // nil: it must be read again
	policy Policy
}

// unsure is how long after a change of a file its time may stay the same after another change:
// longer than the clock ticks of any file system.
const unsure = 2 * time.Second

// Load returns the policy that Find finds, or the zero value if it accepts any image. Its
// error is ErrUnreadable, or ErrUnenforceable if this program cannot check what the policy
// requires. It reads the file only if it has changed.
func Load(root string) (Policy, error) {
	path, info := find(root)
	if path == "" {
		return Policy{}, nil
	}
	loaded.mu.Lock()
	defer loaded.mu.Unlock()
	if info != nil && isSame(loaded.info, info) {
		return loaded.policy, nil
	}
	loaded.info = nil
	p, err := load(path)
	if err == nil && info != nil && time.Since(info.ModTime()) > unsure {
		loaded.info, loaded.policy = info, p
	}
	return p, err
}

// isSame reports whether a file has neither changed, nor become unreadable, nor been replaced.
func isSame(before, now fs.FileInfo) bool {
	return before != nil && os.SameFile(before, now) && before.Size() == now.Size() && before.Mode() == now.Mode() &&
		before.ModTime().Equal(now.ModTime()) && owner(before) == owner(now)
}

// owner returns the user and the group to whom a file belongs.
func owner(info fs.FileInfo) (ids [2]uint32) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		ids = [2]uint32{stat.Uid, stat.Gid}
	}
	return ids
}

func load(path string) (Policy, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	p := Policy{path, text}
	strict, err := p.isStrict()
	switch {
	case err != nil:
		return Policy{}, fmt.Errorf("%w: %s: %w", ErrUnreadable, path, err)
	case !strict:
		return Policy{}, nil
	case !CanVerify:
		return Policy{}, fmt.Errorf("%w: %s asks for more than %s; set COPY_ENGINE=skopeo, or build with -tags containers_image_openpgp",
			ErrUnenforceable, path, acceptAnything)
	}
	return p, nil
}

// Read returns the policy in a file. Its error is ErrUnreadable, also if a key that the policy
// names cannot be read, or ErrUnenforceable if this program cannot check what the policy requires.
func Read(path string) (Policy, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	p := Policy{path, text}
	strict, err := p.isStrict()
	if err == nil {
		err = valid(text)
	}
	if err == nil {
		err = p.checkScopes()
	}
	if err == nil {
		err = p.readKeys()
	}
	switch {
	case err != nil:
		return Policy{}, fmt.Errorf("%w: %s: %w", ErrUnreadable, path, err)
	case strict && !CanVerify:
		return Policy{}, fmt.Errorf("%w: %s asks for more than %s; build with -tags containers_image_openpgp", ErrUnenforceable, path, acceptAnything)
	}
	return p, nil
}

// IsStrict reports whether the policy may reject an image.
func (p Policy) IsStrict() bool { return p.Path != "" }
