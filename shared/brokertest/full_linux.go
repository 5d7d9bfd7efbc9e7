package brokertest

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// smallSize is enough for a broker with a plan, and is quickly filled.
const smallSize = "size=6m"

// Small is a small disk that can be filled up.
type Small struct {
	t      testing.TB
	Path   string
	filler string
}

// NewSmall returns an empty disk. It is unmounted when the test ends. The test is
// skipped if it may not mount.
func NewSmall(t testing.TB) *Small {
	t.Helper()
	s := &Small{t: t, Path: t.TempDir()}
	s.filler = filepath.Join(s.Path, "filler")
	if err := syscall.Mount("tmpfs", s.Path, "tmpfs", 0, smallSize); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(s.Path, syscall.MNT_DETACH) })
	return s
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
