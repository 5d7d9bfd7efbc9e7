package skopeo

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// secretFile is a file in memory that only this process and the one that inherits it can read. It has
// no name in any folder, so it never outlives both.
type secretFile struct{ *os.File }

func newSecretFile(content []byte) (*secretFile, error) {
	const name = "skopeo" // shown in /proc
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	file := &secretFile{os.NewFile(uintptr(fd), name)}
	if _, err := file.Write(content); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// inherit appends the file to files, the exec.Cmd.ExtraFiles of a process, and returns its path in
// that process. Each time the process opens the path, it reads the file from the start.
func (f *secretFile) inherit(files []*os.File) ([]*os.File, string) {
	const first = 3 // after stdin, stdout and stderr
	return append(files, f.File), fmt.Sprintf("/proc/self/fd/%d", first+len(files))
}
