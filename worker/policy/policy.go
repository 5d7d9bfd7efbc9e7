// Package policy finds the containers-policy.json(5) that decides which images may be copied.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"sync"
	"syscall"

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
	if path := os.Getenv(variable); path != "" {
		return path
	}
	for _, path := range paths(root) {
		if exists(path) {
			return path
		}
	}
	return ""
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

// exists reports whether a file exists, or may exist but is not accessible: reading it then
// fails with the reason.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
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

// parsed is the policy that Load has parsed last, because Load is called for each manifest.
var parsed last

// last is a text of a policy, and whether it may reject an image.
type last struct {
	mu     sync.Mutex
	text   []byte
	strict bool
}

// isStrict is Policy.isStrict.
func (l *last) isStrict(p Policy) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text != nil && bytes.Equal(l.text, p.Text) {
		return l.strict, nil
	}
	strict, err := p.isStrict()
	if err == nil {
		l.text, l.strict = p.Text, strict
	}
	return strict, err
}

// Load returns the policy that Find finds, or the zero value if it accepts any image. Its
// error is ErrUnreadable, or ErrUnenforceable if this program cannot check what the policy
// requires.
func Load(root string) (Policy, error) {
	path := Find(root)
	if path == "" {
		return Policy{}, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	p := Policy{path, text}
	strict, err := parsed.isStrict(p)
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %s: %w", ErrUnreadable, path, err)
	}
	switch {
	case !strict:
		return Policy{}, nil
	case !CanVerify:
		return Policy{}, fmt.Errorf("%w: %s asks for more than %s; set COPY_ENGINE=skopeo, or build with -tags containers_image_openpgp",
			ErrUnenforceable, path, acceptAnything)
	}
	return p, nil
}

// Read returns the policy in a file, whatever it asks for. Its error is ErrUnreadable, also if
// a key that the policy names cannot be read, or ErrUnenforceable if this program cannot
// check what the policy requires.
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
