package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// rivals are those that are built here, in the versions measured; skopeo is the machine's.
var rivals = []string{
	"github.com/regclient/regclient/cmd/regsync@v0.11.7",
	"github.com/google/go-containerregistry/cmd/crane@v0.22.1",
}

// binaries returns the paths of all programs by name. Ours are built each time. The rivals
// are built once, and kept in the user's cache for the next run.
var binaries = sync.OnceValues(func() (map[string]string, error) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache = filepath.Join(cache, "skopeo-worker-bench")
	paths := map[string]string{"skopeo": skopeo, "sh": "/bin/sh"}
	for _, name := range []string{"planner", "worker"} {
		paths[name] = filepath.Join(cache, "ours", name)
		if err := build(nil, "build", "-o", paths[name], "github.com/osism/skopeo-worker/"+name); err != nil {
			return nil, err
		}
	}
	for _, module := range rivals {
		release := filepath.Base(module) // name@version
		name, _, _ := strings.Cut(release, "@")
		paths[name] = filepath.Join(cache, release, name)
		if _, err := os.Stat(paths[name]); err == nil {
			continue
		}
		alone := []string{"GOBIN=" + filepath.Dir(paths[name]), "GOWORK=off", "GOFLAGS="}
		if err := build(alone, "install", module); err != nil {
			return nil, err
		}
	}
	return paths, nil
})

func build(environment []string, arguments ...string) error {
	command := exec.Command("go", arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Stderr = os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(arguments, " "), err)
	}
	return nil
}

func find(b *testing.B, name string) string {
	b.Helper()
	paths, err := binaries()
	require.NoError(b, err)
	require.Contains(b, paths, name)
	return paths[name]
}
