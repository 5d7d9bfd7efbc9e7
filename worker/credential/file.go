package credential

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
)

// ErrFile says that a file cannot be read or understood. It names the file and
// never what is in it.
var ErrFile = errors.New("credentials file")

// file is a file that may hold credentials, and what it held when last read.
type file struct {
	path     string
	required bool // named by the user: its absence is an error

	mu       sync.Mutex
	modified time.Time
	size     int64
	config   *configfile.ConfigFile
}

// search lists the files in the order of containers-auth.json(5).
func search() []*file {
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return []*file{{path: path, required: true}}
	}
	home, _ := os.UserHomeDir() // without one, only absolute paths are found
	or := func(name, fallback string) string {
		if value := os.Getenv(name); value != "" {
			return value
		}
		return fallback
	}
	var files []*file
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
		files = append(files, &file{path: filepath.Join(runtime, "containers", "auth.json")})
	} else {
		// Where skopeo login writes on a system without a session.
		files = append(files, &file{path: filepath.Join("/run/containers", strconv.Itoa(os.Getuid()), "auth.json")})
	}
	return append(files,
		&file{path: filepath.Join(or("XDG_CONFIG_HOME", filepath.Join(home, ".config")), "containers", "auth.json")},
		&file{path: filepath.Join(or("DOCKER_CONFIG", filepath.Join(home, ".docker")), "config.json")},
	)
}

// load returns the file's content, read again only if the file has changed.
func (f *file) load() (*configfile.ConfigFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Through a symlink: Kubernetes replaces that to replace a secret.
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if f.config != nil && info.ModTime().Equal(f.modified) && info.Size() == f.size {
		return f.config, nil
	}
	opened, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	defer opened.Close()
	parsed, err := config.LoadFromReader(opened)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %s", ErrFile, f.path, complaint(err))
	}
	f.config, f.modified, f.size = parsed, info.ModTime(), info.Size()
	return parsed, nil
}

// complaint says what is wrong with a file without quoting it.
func complaint(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("not valid JSON at byte %d", syntax.Offset)
	}
	return "not in the format of containers-auth.json(5)"
}
