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

// ErrFile is returned if a file with credentials cannot be read. The error names the file and does not
// quote it.
var ErrFile = errors.New("credentials file")

// authFile is a file that may have credentials.
type authFile struct {
	path     string
	required bool // REGISTRY_AUTH_FILE names it, so it must exist
	legacy   bool // .dockercfg
}

// authFiles returns the files in the order in which containers/image reads them.
func authFiles() []authFile {
	// skopeo reads this variable; containers/image does not.
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
	var first string // written by skopeo login
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

// stamp changes when the content of a file does.
type stamp struct {
	size     int64
	modified time.Time
	inode    uint64
	missing  bool
}

// stamps returns the stamps of the files. It follows symbolic links, because Kubernetes
// replaces a link to update a secret.
func (k *Keychain) stamps() []stamp {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if since := now.Sub(k.looked.at); k.looked.files != nil && 0 <= since && since < stampsFor {
		return k.looked.files
	}
	stamps := make([]stamp, len(k.files))
	for i, file := range k.files {
		info, err := os.Stat(file.path)
		if err == nil {
			stamps[i] = stamp{info.Size(), info.ModTime(), inode(info), false}
		}
		stamps[i].missing = errors.Is(err, fs.ErrNotExist)
	}
	k.looked = looked{stamps, now}
	return stamps
}

// inode returns a number that differs for another file that was moved to the same path; 0 if unknown.
func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

// content is the part of a file that is needed to find the entry of a repository.
type content struct {
	Entries map[string]json.RawMessage `json:"auths"`
	Helpers map[string]string          `json:"credHelpers"`
}

// read returns the content of the file. It is empty if the file does not exist.
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
		return content{}, fmt.Errorf("%w %s: %s", ErrFile, f.path, describe(err))
	}
	return found, nil
}

// describe returns why a file cannot be read, without quoting it.
func describe(err error) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("not valid JSON at byte %d", syntax.Offset)
	}
	return "not in the format of containers-auth.json(5)"
}

// nowhere is a folder that does not exist.
const nowhere = "/nonexistent"

// find returns the credentials that containers/image finds in this file alone. in is the file's
// content. find does not use the helpers of registries.conf, which containers/image would run without
// a timeout and with this process's stderr.
func (f authFile) find(key string, in content) (Credential, error) {
	if len(in.Entries) == 0 {
		return Credential{}, nil
	}
	look := types.SystemContext{AuthFilePath: f.path, SystemRegistriesConfPath: os.DevNull, SystemRegistriesConfDirPath: nowhere}
	if f.legacy {
		look.AuthFilePath, look.LegacyFormatAuthFilePath = "", f.path
	}
	entry := in.entry(key, f.legacy)
	found, err := config.GetCredentials(&look, key)
	if err != nil { // its text may quote the file
		return Credential{}, fmt.Errorf("%w: entry %q is not in the format of containers-auth.json(5)", ErrFile, entry)
	}
	return Credential{
		Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken,
		Origin: fmt.Sprintf("entry %q in %s", entry, f.path),
	}, nil
}

// entry returns the name of the entry that containers/image uses for a repository: the longest
// path that contains it, or a URL of its registry.
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
