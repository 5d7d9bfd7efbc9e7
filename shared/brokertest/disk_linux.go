package brokertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// diskSize is enough for a broker with some plans.
const diskSize = 128 << 20

// Disk is a file system in a file.
type Disk struct {
	t     testing.TB
	image string
	Path  string // the mount point
}

// NewDisk returns an empty disk. It is unmounted when the test ends. The test is
// skipped if it may not mount.
func NewDisk(t testing.TB) *Disk {
	t.Helper()
	d := &Disk{t: t, image: filepath.Join(t.TempDir(), "image")}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, diskSize); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", d.image)
	d.mount()
	return d
}

// AfterPowerCut returns a copy of the disk as it would be after a power failure: without data that was
// written and not synced.
func (d *Disk) AfterPowerCut() *Disk {
	d.t.Helper()
	c := &Disk{t: d.t, image: filepath.Join(d.t.TempDir(), "image")}
	run(d.t, "cp", "--sparse=always", d.image, c.image)
	c.mount()
	return c
}

func (d *Disk) mount() {
	d.t.Helper()
	d.Path = d.t.TempDir()
	run(d.t, "mount", "-o", "loop", d.image, d.Path)
	d.t.Cleanup(func() { _ = exec.Command("umount", "-l", d.Path).Run() })
}

// run runs a command that needs the right to mount. If it fails, the test is skipped.
func run(t testing.TB, name string, arguments ...string) {
	t.Helper()
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		t.Skipf("needs the right to mount, and %s: %v: %s", name, err, out)
	}
}
