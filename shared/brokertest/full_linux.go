package brokertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// smallSize is enough for a broker with a plan, and is quickly filled.
const smallSize = 6 << 20

// Small is a small disk that can be filled up.
type Small struct {
	t      testing.TB
	Path   string
	filler string
}

// NewSmall returns an empty disk, which exists until the test ends. The test is skipped if it
// may not mount.
func NewSmall(t testing.TB) *Small {
	t.Helper()
	path, err := Tmpfs(t, smallSize)
	if err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	return &Small{t: t, Path: path, filler: filepath.Join(path, "filler")}
}

// Tmpfs mounts an empty tmpfs of a size in bytes, and returns its path. Only an open file of this
// process holds the mount, so that nothing stays if the test is killed. It also ends with the test.
func Tmpfs(t testing.TB, size int) (path string, err error) {
	t.Helper()
	point := t.TempDir()
	if err := syscall.Mount("tmpfs", point, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return "", err
	}
	root, err := os.Open(point)
	if unmounted := syscall.Unmount(point, syscall.MNT_DETACH); err == nil {
		err = unmounted
	}
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = root.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), root.Fd()), nil
}

// Fill leaves no room on the disk.
func (s *Small) Fill() {
	s.t.Helper()
	f, err := os.OpenFile(s.filler, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	block := make([]byte, os.Getpagesize())
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// Free makes room again.
func (s *Small) Free() {
	s.t.Helper()
	if err := os.Remove(s.filler); err != nil {
		s.t.Fatal(err)
	}
}
