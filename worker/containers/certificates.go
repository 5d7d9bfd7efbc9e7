package containers

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.podman.io/image/v5/pkg/tlsclientconfig"
	"go.podman.io/storage/pkg/configfile"
	"go.podman.io/storage/pkg/unshare"
)

// ErrCertificates says that the certificates of a registry cannot be read.
var ErrCertificates = errors.New("certificates")

// dockerCertificates is where Docker keeps the certificates of registries.
const dockerCertificates = "/etc/docker/certs.d"

// Certificates are what containers-certs.d(5) has for a registry: further CAs, and
// certificates of ours that it may ask for. The zero value is nothing. Equal ones have
// the same content.
type Certificates struct {
	folder string
	state  string // of the files in it
}

// CertificatesOf returns the certificates for a registry, host[:port]. The error is
// ErrCertificates.
func CertificatesOf(host string) (Certificates, error) {
	paths, err := configfile.GetSearchPaths(&configfile.File{
		Name: "certs", Extension: "d", DoNotUseExtensionForConfigName: true, UserId: unshare.GetRootlessUID(),
	})
	if err != nil {
		return Certificates{}, fmt.Errorf("%w: %w", ErrCertificates, err)
	}
	for _, base := range append(paths.DropInDirectories, dockerCertificates) {
		folder := filepath.Join(base, normalize(host))
		files, err := os.ReadDir(folder)
		switch {
		case err == nil:
			return Certificates{folder: folder, state: stateOf(folder, files)}, nil
		case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission):
			return Certificates{}, fmt.Errorf("%w: %w", ErrCertificates, err)
		}
	}
	return Certificates{}, nil
}

// stateOf changes when a file does, through symlinks.
func stateOf(folder string, files []os.DirEntry) string {
	var state strings.Builder
	for _, file := range files {
		if info, err := os.Stat(filepath.Join(folder, file.Name())); err == nil {
			fmt.Fprintln(&state, file.Name(), info.Size(), info.ModTime().UnixNano(), inode(info))
		}
	}
	return state.String()
}

// AddTo adds the certificates to a configuration. The error is ErrCertificates.
func (c Certificates) AddTo(config *tls.Config) error {
	if c.folder == "" {
		return nil
	}
	if err := tlsclientconfig.SetupCertificates(c.folder, config); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCertificates, c.folder, err)
	}
	return nil
}
