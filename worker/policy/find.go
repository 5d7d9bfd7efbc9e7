// Package policy finds the containers-policy.json(5) that says which images may be
// copied, and holds copies to it.
package policy

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
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
