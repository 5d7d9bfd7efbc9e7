//go:build packages

// Package packages tests dist/: it installs the packages and runs their programs once. It needs
// root, and the programs that make dist-test installs.
package packages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"debug/macho"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const dist = "../../dist"

// found returns the only file in dist/ that matches the pattern.
func found(t *testing.T, pattern string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dist, pattern))
	require.NoError(t, err)
	require.Len(t, paths, 1, "%s in dist/; run make dist", pattern)
	path, err := filepath.Abs(paths[0])
	require.NoError(t, err)
	return path
}

// version returns the version that the programs in dist/ must print.
func version(t *testing.T) string {
	name := filepath.Base(found(t, "*_linux_amd64.tar.gz"))
	return strings.TrimSuffix(strings.TrimPrefix(name, "skopeo-worker_"), "_linux_amd64.tar.gz")
}

// run runs a command that must succeed, and returns its output.
func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, arguments...)
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(arguments, " "), out)
	return string(out)
}

// unpacked returns a folder with the files of an archive.
func unpacked(t *testing.T, platform string) string {
	archive, dir := found(t, "*_"+platform+".tar.gz"), t.TempDir()
	run(t, "tar", "-xzf", archive, "-C", dir)
	return filepath.Join(dir, strings.TrimSuffix(filepath.Base(archive), ".tar.gz"))
}

// TestChecksums: SHA256SUMS lists every file with its checksum.
func TestChecksums(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
	require.NoError(t, err)
	sums := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		sums[name] = sum
	}
	files, err := os.ReadDir(dist)
	require.NoError(t, err)
	for _, f := range files {
		if f.Name() == "SHA256SUMS" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dist, f.Name()))
		require.NoError(t, err)
		sum := sha256.Sum256(data)
		require.Equal(t, hex.EncodeToString(sum[:]), sums[f.Name()], f.Name())
		delete(sums, f.Name())
	}
	require.Empty(t, sums)
}

// TestArchives: each archive has programs for its platform, manual pages and completions.
func TestArchives(t *testing.T) {
	for platform, machine := range map[string]elf.Machine{"linux_amd64": elf.EM_X86_64, "linux_arm64": elf.EM_AARCH64} {
		dir := unpacked(t, platform)
		for _, command := range []string{"planner", "worker"} {
			require.Equal(t, machine, machineOf(t, filepath.Join(dir, command)), platform)
			require.FileExists(t, filepath.Join(dir, "completions", "_"+command))
			require.FileExists(t, filepath.Join(dir, "man", command+".1"))
		}
		require.FileExists(t, filepath.Join(dir, "LICENSE"))
	}
	for platform, cpu := range map[string]macho.Cpu{"darwin_amd64": macho.CpuAmd64, "darwin_arm64": macho.CpuArm64} {
		f, err := macho.Open(filepath.Join(unpacked(t, platform), "planner"))
		require.NoError(t, err)
		require.Equal(t, cpu, f.Cpu)
		require.NoError(t, f.Close())
	}
	require.Equal(t, "planner version "+version(t)+"\n", run(t, filepath.Join(unpacked(t, "linux_amd64"), "planner"), "--version"))
}

func machineOf(t *testing.T, path string) elf.Machine {
	t.Helper()
	f, err := elf.Open(path)
	require.NoError(t, err)
	defer f.Close()
	return f.Machine
}

// TestArm64: the packages for arm64 have programs for arm64.
func TestArm64(t *testing.T) {
	deb, rpm := found(t, "*_arm64.deb"), found(t, "*.aarch64.rpm")
	require.Equal(t, "arm64\n", run(t, "dpkg-deb", "--field", deb, "Architecture"))
	require.Equal(t, "aarch64", run(t, "rpm", "-qp", "--queryformat", "%{ARCH}", rpm))
	dir := t.TempDir()
	run(t, "dpkg-deb", "--extract", deb, dir)
	require.Equal(t, elf.EM_AARCH64, machineOf(t, filepath.Join(dir, "usr/bin/planner")))
	require.Equal(t, elf.EM_AARCH64, machineOf(t, filepath.Join(dir, "usr/bin/worker")))
}

// TestPages: man prints every page without a warning.
func TestPages(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(unpacked(t, "linux_amd64"), "man", "*.1"))
	require.NoError(t, err)
	require.Greater(t, len(pages), 10)
	for _, page := range pages {
		var text, warnings bytes.Buffer
		c := exec.CommandContext(context.Background(), "groff", "-Kutf8", "-man", "-ww", "-Tutf8", "-P-cbou", page)
		c.Stdout, c.Stderr = &text, &warnings
		require.NoError(t, c.Run(), warnings.String())
		require.Empty(t, warnings.String(), page)
		require.Contains(t, text.String(), "OPTIONS", page)
	}
}
