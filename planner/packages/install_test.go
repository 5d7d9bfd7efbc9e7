//go:build packages

package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// units are the systemd units in the packages.
var units = []string{"skopeo-worker.service", "skopeo-worker-worker.service", "skopeo-worker-mirror.service", "skopeo-worker-mirror.timer"}

// newRoot returns a folder to install into. It has only a shell for the scripts of packages, and
// /dev/null.
func newRoot(t *testing.T) string {
	t.Helper()
	require.Zero(t, os.Getuid(), "packages are installed by root")
	root := t.TempDir()
	shell, err := exec.LookPath("busybox")
	require.NoError(t, err)
	for _, dir := range []string{"bin", "dev", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/rpm"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	run(t, "cp", shell, filepath.Join(root, "bin/sh"))
	for _, file := range []string{"dev/null", "var/lib/dpkg/status"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, file), nil, 0o644))
	}
	return root
}

// within runs a command in the root with these variables only.
func within(t *testing.T, root string, env []string, name string, arguments ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, arguments...)
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	c.Env, c.Dir = env, "/tmp"
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(arguments, " "), out)
	return string(out)
}

// TestDeb: dpkg installs the package, its programs mirror, and dpkg removes it except for its
// settings.
func TestDeb(t *testing.T) {
	root, deb := newRoot(t), found(t, "*_amd64.deb")
	// The root lacks the packages on which this one depends.
	run(t, "dpkg", "--root="+root, "--force-depends", "--install", deb)
	require.Contains(t, run(t, "dpkg", "--root="+root, "--status", "skopeo-worker"), "Status: install ok installed")
	installed(t, root)
	require.FileExists(t, filepath.Join(root, "usr/share/zsh/vendor-completions/_planner"))
	works(t, root)

	run(t, "dpkg", "--root="+root, "--remove", "skopeo-worker")
	removed(t, root)
	require.FileExists(t, filepath.Join(root, "etc/skopeo-worker.env"))
}

// TestRPM is TestDeb with rpm.
func TestRPM(t *testing.T) {
	root, rpm := newRoot(t), found(t, "*.x86_64.rpm")
	listed := run(t, "rpm", "-qlp", rpm)
	for _, unit := range units {
		require.Contains(t, listed, "/usr/lib/systemd/system/"+unit+"\n")
	}
	require.Equal(t, "/etc/skopeo-worker.env\n", run(t, "rpm", "-qcp", rpm))
	run(t, "rpm", "--root", root, "--initdb")
	run(t, "rpm", "--root", root, "--nodeps", "--ignorearch", "--install", rpm)
	run(t, "rpm", "--root", root, "--nodeps", "--verify", "skopeo-worker")
	installed(t, root)
	require.FileExists(t, filepath.Join(root, "usr/share/zsh/site-functions/_planner"))
	works(t, root)

	run(t, "rpm", "--root", root, "--erase", "skopeo-worker")
	removed(t, root)
}

// installed checks the files of an installed package.
func installed(t *testing.T, root string) {
	t.Helper()
	for path, mode := range map[string]os.FileMode{
		"etc/skopeo-worker.env": 0o600, "usr/bin/planner": 0o755, "usr/bin/worker": 0o755,
		"usr/share/man/man1/planner-mirror.1.gz": 0o644, "usr/share/man/man1/worker.1.gz": 0o644,
		"usr/share/bash-completion/completions/planner": 0o644, "usr/share/fish/vendor_completions.d/worker.fish": 0o644,
		"usr/share/doc/skopeo-worker/compose.yaml": 0o644,
	} {
		info, err := os.Stat(filepath.Join(root, path))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
		require.Equal(t, uint32(0), info.Sys().(*syscall.Stat_t).Uid, path)
	}
	for _, unit := range units {
		require.FileExists(t, filepath.Join(root, "usr/lib/systemd/system", unit))
		if strings.HasSuffix(unit, ".service") {
			// systemd-analyze fails if the exposure exceeds the threshold, and prints a line for an
			// unknown key.
			said := run(t, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=15", "--root="+root, unit)
			require.NotContains(t, said, "Unknown", unit)
			require.NotContains(t, said, "ignoring", unit)
		}
	}
}

// removed checks that a removed package leaves no program and no active unit.
func removed(t *testing.T, root string) {
	t.Helper()
	for _, path := range []string{"usr/bin/planner", "usr/bin/worker", "usr/lib/systemd/system/skopeo-worker.service", "usr/share/man/man1/planner.1.gz"} {
		require.NoFileExists(t, filepath.Join(root, path))
	}
}

// works runs the programs in the root once: without other programs, and with the skopeo of this
// machine.
func works(t *testing.T, root string) {
	t.Helper()
	require.Equal(t, "planner version "+version(t)+"\n", within(t, root, nil, "/usr/bin/planner", "--version"))
	require.Equal(t, "worker version "+version(t)+"\n", within(t, root, nil, "/usr/bin/worker", "--version"))
	require.Contains(t, within(t, root, nil, "/usr/bin/planner", "__complete", "sta"), "status\t")
	script := filepath.Join(root, "usr/share/bash-completion/completions/planner")
	require.Contains(t, run(t, "bash", "-c", "source "+script+" && complete -p planner"), "__start_planner")

	source, destination := registrytest.New(t), registrytest.New(t)
	digest, err := source.PushImage("osism/tool", "1", registrytest.Image{})
	require.NoError(t, err)
	list := filepath.Join(root, "tmp/images.yml")
	require.NoError(t, os.WriteFile(list, []byte("containers: ['"+source.Host()+"/osism/tool']"), 0o644))
	env := func(prefix, list string) []string {
		return []string{
			"MIRROR_SOURCE_URL=" + list, "MIRROR_DEST_URL=" + destination.Host() + "/" + prefix,
			"INSECURE_REGISTRIES=" + source.Host() + "," + destination.Host(), "HOME=/tmp",
		}
	}
	within(t, root, append(env("alone", "/tmp/images.yml"), "COPY_ENGINE=builtin", "DATA_DIR=/tmp/data"), "/usr/bin/planner", "mirror")

	c := exec.CommandContext(t.Context(), filepath.Join(root, "usr/bin/planner"), "mirror")
	c.Env = append(env("skopeo", list), "PATH="+os.Getenv("PATH"), "DATA_DIR="+filepath.Join(t.TempDir(), "data"))
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	for _, prefix := range []string{"alone", "skopeo"} {
		mirrored, err := crane.Digest(destination.Host()+"/"+prefix+"/osism/tool:1", crane.Insecure)
		require.NoError(t, err)
		require.Equal(t, digest, mirrored)
	}
}
