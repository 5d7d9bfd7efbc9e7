package containers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/homedir"
)

// ErrFile says that a file cannot be read or understood. It names the file and never
// what is in it.
var ErrFile = errors.New("credentials file")

// authFile is a file that may hold credentials.
type authFile struct {
	path     string
	required bool // named by the user: its absence is an error
	legacy   bool // .dockercfg
}

// authFiles lists the files in the order of containers/image.
func authFiles() []authFile {
	// It is skopeo, and not containers/image, that looks at this variable.
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return []authFile{{path: path, required: true}}
	}
	home := homedir.Get()
	or := func(name, fallback string) string {
		if value := os.Getenv(name); value != "" {
			return value
		}
		return fallback
	}
	var first string // where skopeo login writes
	switch session := os.Getenv("XDG_RUNTIME_DIR"); {
	case runtime.GOOS != "linux":
		first = filepath.Join(home, ".config/containers/auth.json")
	case session != "":
		first = filepath.Join(session, "containers/auth.json")
	default:
		first = filepath.Join("/run/containers", strconv.Itoa(os.Getuid()), "auth.json")
	}
	return []authFile{
		{path: first},
		{path: filepath.Join(or("XDG_CONFIG_HOME", filepath.Join(home, ".config")), "containers/auth.json")},
		{path: filepath.Join(or("DOCKER_CONFIG", filepath.Join(home, ".docker")), "config.json")},
		{path: filepath.Join(home, ".dockercfg"), legacy: true},
	}
}

// stamp is the state of a file: what changes when its content does.
type stamp struct {
	size     int64
	modified time.Time
	inode    uint64
}

// stamps looks at the files through symlinks: Kubernetes replaces one to replace a secret.
func (k *Keychain) stamps() []stamp {
	stamps := make([]stamp, len(k.files))
	for i, file := range k.files {
		if info, err := os.Stat(file.path); err == nil {
			stamps[i] = stamp{info.Size(), info.ModTime(), inode(info)}
		}
	}
	return stamps
}

// inode tells a file from one that was moved into its place.
func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

// content is what of a file is needed to know where in it a credential is.
type content struct {
	Entries map[string]json.RawMessage `json:"auths"`
	Helpers map[string]string          `json:"credHelpers"`
}

// read returns what the file holds: nothing, where it does not exist.
func (f authFile) read() (content, error) {
	raw, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !f.required:
		return content{}, nil
	case err != nil:
		return content{}, fmt.Errorf("%w: %w", ErrFile, err)
	}
	var found content
	if f.legacy {
		err = json.Unmarshal(raw, &found.Entries)
	} else {
		err = json.Unmarshal(raw, &found)
	}
	if err != nil {
		return content{}, fmt.Errorf("%w %s: %s", ErrFile, f.path, complaint(err))
	}
	return found, nil
}

// complaint says what is wrong with a file without quoting it.
func complaint(err error) string {
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return fmt.Sprintf("not valid JSON at byte %d", syntax.Offset)
	}
	return "not in the format of containers-auth.json(5)"
}

// nowhere is a folder that does not exist.
const nowhere = "/nonexistent"

// find lets containers/image look into this file alone. The helpers of registries.conf
// are kept out of it: it would run them without a time limit, and with our stderr.
func (f authFile) find(key string, in content) (Credential, error) {
	look := types.SystemContext{AuthFilePath: f.path, SystemRegistriesConfPath: os.DevNull, SystemRegistriesConfDirPath: nowhere}
	if f.legacy {
		look.AuthFilePath, look.LegacyFormatAuthFilePath = "", f.path
	}
	entry := in.entry(key, f.legacy)
	found, err := config.GetCredentials(&look, key)
	if err != nil { // its words quote the file
		return Credential{}, fmt.Errorf("%w: entry %q is not in the format of containers-auth.json(5)", ErrFile, entry)
	}
	return Credential{
		Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken,
		Origin: fmt.Sprintf("entry %q in %s", entry, f.path),
	}, nil
}

// entry is the name of the entry that containers/image takes for a repository: that of
// the longest path that holds it, or one that is a URL of its registry.
func (c content) entry(key string, legacy bool) string {
	for path := key; !legacy; {
		if _, ok := c.Entries[path]; ok {
			return path
		}
		end := strings.LastIndexByte(path, '/')
		if end < 0 {
			break
		}
		path = path[:end]
	}
	for _, name := range slices.Sorted(maps.Keys(c.Entries)) {
		host := strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
		if legacy || host != name {
			host, _, _ = strings.Cut(host, "/")
		}
		if normalize(host) == registryOf(key) {
			return name
		}
	}
	return ""
}
