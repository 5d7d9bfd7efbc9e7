package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// program is something that mirrors.
type program struct {
	name string
	at   func(repository string) string
	// command returns what to execute, with variables of its own. dir is the program's folder,
	// the same for all its runs in a world.
	command func(b *testing.B, w *world, c catalogue, dir string) (variables []string, name string, arguments []string)
}

const (
	builtinName = "planner mirror, builtin"
	skopeoName  = "planner mirror, skopeo"
	regsyncName = "regsync, default"
	tunedName   = "regsync, tuned"
)

// Parallel repositories of everybody who is tuned, and parallel requests to each registry.
const (
	tunedRepositories = 8
	tunedRequests     = 32
)

// rivalsFrom is the index of the first rival in programs.
const rivalsFrom = 2

// programs are ours and the rivals, in the order in which they run.
var programs = []program{
	{builtinName, underPath, ours("builtin")},
	{skopeoName, underPath, ours("skopeo")},
	{regsyncName, underPath, regsync(0, 0)},
	{tunedName, underPath, regsync(tunedRepositories, tunedRequests)},
	{"crane copy, 8 at once", underPath, crane},
	{"skopeo sync", underName, skopeoSync},
}

// mirrorVariables are those of our commands.
func mirrorVariables(b *testing.B, w *world, c catalogue, dir string) []string {
	b.Helper()
	var list strings.Builder
	list.WriteString("containers:\n")
	for _, r := range c.repositories {
		fmt.Fprintf(&list, "  - %s/%s\n", w.host, r)
	}
	return []string{"MIRROR_SOURCE_URL=" + write(b, dir, "list.yml", list.String()), "MIRROR_DEST_URL=" + w.target(), "LOG_LEVEL=error"}
}

// ours has its defaults, apart from the engine.
func ours(engine string) func(*testing.B, *world, catalogue, string) ([]string, string, []string) {
	return func(b *testing.B, w *world, c catalogue, dir string) ([]string, string, []string) {
		return append(mirrorVariables(b, w, c, dir), "DATA_DIR="+dir, "COPY_ENGINE="+engine), "planner", []string{"mirror"}
	}
}

// regsync mirrors so many repositories at once, with so many requests to a registry; 0: as
// many as it does by default.
func regsync(parallel, requests int) func(*testing.B, *world, catalogue, string) ([]string, string, []string) {
	return func(b *testing.B, w *world, c catalogue, dir string) ([]string, string, []string) {
		var y strings.Builder
		y.WriteString("version: 1\n")
		if parallel > 0 {
			fmt.Fprintf(&y, "defaults:\n  parallel: %d\ncreds:\n", parallel)
			for _, host := range []string{w.host, w.toDestination.Host()} {
				fmt.Fprintf(&y, "  - registry: %s\n    reqConcurrent: %d\n", host, requests)
			}
		}
		y.WriteString("sync:\n")
		for _, r := range c.repositories {
			fmt.Fprintf(&y, "  - source: %s/%s\n    target: %s/%s\n    type: repository\n", w.host, r, w.target(), r)
		}
		return nil, "regsync", []string{"once", "-c", write(b, dir, "regsync.yml", y.String())}
	}
}

func skopeoSync(b *testing.B, w *world, c catalogue, dir string) ([]string, string, []string) {
	var y strings.Builder
	fmt.Fprintf(&y, "%s:\n  images:\n", w.host)
	for _, r := range c.repositories {
		fmt.Fprintf(&y, "    %s: []\n", r)
	}
	return nil, "skopeo", []string{"--insecure-policy", "sync", "--all", "--src", "yaml", "--dest", "docker", write(b, dir, "skopeo.yml", y.String()), w.target()}
}

// crane copies one repository in each process.
func crane(b *testing.B, w *world, c catalogue, dir string) ([]string, string, []string) {
	path := write(b, dir, "repositories", strings.Join(c.repositories, "\n")+"\n")
	script := fmt.Sprintf(`xargs -a %s -P %d -I{} "$CRANE" copy --all-tags %s/{} %s/{}`, path, tunedRepositories, w.host, w.target())
	return []string{"CRANE=" + find(b, "crane")}, "sh", []string{"-c", script}
}

// write writes a file in a folder and returns its path.
func write(b *testing.B, dir, name, content string) string {
	b.Helper()
	path := filepath.Join(dir, name)
	require.NoError(b, os.WriteFile(path, []byte(content), 0o600))
	return path
}
