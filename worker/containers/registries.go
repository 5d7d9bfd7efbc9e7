package containers

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/pkg/tlsclientconfig"
	"go.podman.io/storage/pkg/configfile"
	"go.podman.io/storage/pkg/unshare"
)

// ErrConf says that registries.conf cannot be read or understood.
var ErrConf = errors.New("registries.conf")

// Settings are what containers-registries.conf(5) says of a repository.
type Settings struct {
	Insecure bool // need not have TLS, or a certificate that can be verified
	Blocked  bool // is not to be talked to
}

// SettingsOf returns what registries.conf says of a repository ("quay.io/osism/osism") or
// of a registry as a whole. What has changed counts within 5 seconds. The error is
// ErrConf.
func SettingsOf(repository string) (Settings, error) {
	if err := conf.refresh(time.Now()); err != nil {
		return Settings{}, err
	}
	found, err := sysregistriesv2.FindRegistry(nil, normalize(repository))
	if err != nil {
		return Settings{}, fmt.Errorf("%w: %w", ErrConf, err)
	}
	if found == nil {
		return Settings{}, nil
	}
	return Settings{Insecure: found.Insecure, Blocked: found.Blocked}, nil
}

// conf is containers-registries.conf(5). What the library has read, it keeps for the
// whole process, so this is one for all.
var conf registriesConf

type registriesConf struct {
	mu   sync.Mutex
	read time.Time
}

// forget makes the files be read again.
func (c *registriesConf) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = time.Time{}
}

// refresh reads the files where that was too long ago.
func (c *registriesConf) refresh(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if age := now.Sub(c.read); age >= 0 && age < answersFor {
		return nil
	}
	sysregistriesv2.InvalidateCache()
	if _, err := sysregistriesv2.TryUpdatingCache(nil); err != nil {
		return fmt.Errorf("%w: %w", ErrConf, err)
	}
	c.read = now
	return nil
}

// helpers returns the helpers that are asked for credentials, in their order.
func (c *registriesConf) helpers(now time.Time) ([]string, error) {
	if err := c.refresh(now); err != nil {
		return nil, err
	}
	helpers, err := sysregistriesv2.CredentialHelpers(nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConf, err)
	}
	return helpers, nil
}

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
