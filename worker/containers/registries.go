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

// ErrConf is returned if registries.conf cannot be read.
var ErrConf = errors.New("registries.conf")

// Settings are the settings of a repository in containers-registries.conf(5).
type Settings struct {
	Insecure bool // the registry may use plain HTTP or a certificate that cannot be verified
	Blocked  bool // the repository must not be used
	// Elsewhere means that images may be read from a mirror or another location, or that an entry
	// is for exactly this repository.
	Elsewhere bool
}

// SettingsOf returns the settings of a repository ("quay.io/osism/osism") or of a whole registry.
// Changes take effect within 5 seconds. The error is ErrConf.
func SettingsOf(repository string) (Settings, error) {
	conf.mu.Lock()
	defer conf.mu.Unlock()
	if err := conf.refreshLocked(time.Now()); err != nil {
		return Settings{}, err
	}
	if known, ok := conf.settings[repository]; ok {
		return known, nil
	}
	found, err := sysregistriesv2.FindRegistry(nil, normalize(repository))
	if err != nil {
		return Settings{}, fmt.Errorf("%w: %w", ErrConf, err)
	}
	var settings Settings
	if found != nil {
		settings = Settings{
			Insecure: found.Insecure, Blocked: found.Blocked,
			Elsewhere: len(found.Mirrors) > 0 || found.Location != "" && found.Location != found.Prefix || found.Prefix == normalize(repository),
		}
	}
	conf.settings[repository] = settings
	return settings, nil
}

// conf is containers-registries.conf(5). There is one for the process, because the library has one
// cache.
var conf registriesConf

type registriesConf struct {
	mu   sync.Mutex
	read time.Time
	// settings caches results since then, by repository: the library is slow, because it matches
	// all prefixes of a name.
	settings map[string]Settings
}

// forget makes the next refresh read the files again.
func (c *registriesConf) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = time.Time{}
}

// refresh reads the files if they were last read longer than answersFor ago.
func (c *registriesConf) refresh(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refreshLocked(now)
}

// refreshLocked is refresh for callers that hold mu.
func (c *registriesConf) refreshLocked(now time.Time) error {
	if age := now.Sub(c.read); age >= 0 && age < answersFor {
		return nil
	}
	sysregistriesv2.InvalidateCache()
	if _, err := sysregistriesv2.TryUpdatingCache(nil); err != nil {
		return fmt.Errorf("%w: %w", ErrConf, err)
	}
	c.read, c.settings = now, make(map[string]Settings)
	return nil
}

// Files is the name that stands for the files with credentials in a list of helpers.
const Files = sysregistriesv2.AuthenticationFileHelper

// helpers returns the credential helpers in the order of registries.conf.
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

// ErrCertificates is returned if the certificates of a registry cannot be read.
var ErrCertificates = errors.New("certificates")

// dockerCertificates is the folder in which Docker keeps the certificates of registries.
const dockerCertificates = "/etc/docker/certs.d"

// Certificates are additional CAs and client certificates for a registry, as in containers-certs.d(5).
// The zero value has none. Two values are equal if their files are.
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

// stateOf returns a text that changes when one of the files does. It follows symbolic links.
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
