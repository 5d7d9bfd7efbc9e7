//go:build !linux

package skopeo

import (
	"errors"
	"os"
)

// secretFile is a file that only this user can read. On this system, a process cannot open an
// inherited file more than once. So the file has a name, and remains if this process is killed.
type secretFile struct{ *os.File }

func newSecretFile(content []byte) (*secretFile, error) {
	file, err := os.CreateTemp("", "skopeo-*")
	if err != nil {
		return nil, err
	}
	made := &secretFile{file}
	if _, err = file.Write(content); err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// inherit returns files unchanged, and the path of the file.
func (f *secretFile) inherit(files []*os.File) ([]*os.File, string) { return files, f.Name() }

// Close also removes the file.
func (f *secretFile) Close() error { return errors.Join(f.File.Close(), os.Remove(f.Name())) }
