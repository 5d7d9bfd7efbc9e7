package containers

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"go.podman.io/image/v5/pkg/sysregistriesv2"
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
