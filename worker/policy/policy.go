// Package policy finds the containers-policy.json(5) that says which images may be
// copied, and holds copies to it.
package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"syscall"
)

const (
	// variable names the policy instead of the folders (signature.DefaultPolicy of
	// containers/image 5.42).
	variable = "CONTAINERS_POLICY_JSON"

	// file is a policy below a folder with configuration.
	file = "containers/policy.json"
)

// folders have the policy of the administrator, and that of the distribution, which
// skopeo reads since 1.24 (adminOverrideConfigPath and systemConfigPath of
// containers/storage 1.65).
var folders = []string{"/etc", "/usr/share"}

// Find returns the path of the policy, or nothing where there is none: the first one that
// any version of skopeo finds, in the order of the newest. The root is that of the
// system's files, / where it is empty.
func Find(root string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	for _, path := range paths(root) {
		if isThere(path) {
			return path
		}
	}
	return ""
}

// paths are the files in which a policy may be, the one that counts first.
func paths(root string) []string {
	var paths []string
	if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		paths = append(paths, filepath.Join(config, file))
	}
	// The newest skopeo does not look here where XDG_CONFIG_HOME is set. Those up to 1.23
	// look here only.
	if home := homeFolder(); home != "" {
		paths = append(paths, filepath.Join(home, ".config", file))
	}
	for _, folder := range folders {
		paths = append(paths, filepath.Join(root, folder, file))
	}
	return paths
}

// isThere reports whether there is a file, or may be one that cannot be seen: whoever
// reads it then says what is wrong with it.
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

// What may be wrong with a copy, for errors.Is.
var (
	// ErrUnenforceable is a policy that this program cannot hold copies to.
	ErrUnenforceable = errors.New("this program cannot enforce the signature policy")
	// ErrUnreadable is a policy that cannot be read.
	ErrUnreadable = errors.New("the signature policy cannot be read")
	// ErrRejected is an image that the policy does not allow to be copied.
	ErrRejected = errors.New("rejected by the signature policy")
)

// acceptAnything is the type of the requirement that is none.
const acceptAnything = "insecureAcceptAnything"

// Policy is a containers-policy.json(5).
type Policy struct {
	Path string // empty: there is none, so that everything is accepted
	Text []byte
}

// Load reads the policy that counts; the root is that of Find. Its error is ErrUnreadable,
// or ErrUnenforceable where the policy asks for more than this program can check.
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
	strict, err := p.isStrict()
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

// IsStrict reports whether the policy asks something of any image.
func (p Policy) IsStrict() bool { return p.Path != "" }

// isStrict reports whether the text does.
func (p Policy) isStrict() (bool, error) {
	type requirements []struct {
		Type string `json:"type"`
	}
	var text struct {
		Default    requirements                       `json:"default"`
		Transports map[string]map[string]requirements `json:"transports"`
	}
	if err := json.Unmarshal(p.Text, &text); err != nil {
		return false, err
	}
	asks := func(r requirements) bool {
		for _, one := range r {
			if one.Type != acceptAnything {
				return true
			}
		}
		return len(r) == 0
	}
	all := []requirements{text.Default}
	for _, scoped := range text.Transports["docker"] {
		all = append(all, scoped)
	}
	return slices.ContainsFunc(all, asks), nil
}
