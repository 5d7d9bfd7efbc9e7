// Package credential finds the credentials of registries where skopeo finds
// them, so that both of us are the same user to a registry.
package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
)

// Keychain is an authn.Keychain over the files that containers-auth.json(5)
// names. Files are read again when they have changed: secrets rotate.
// It is safe for concurrent use.
type Keychain struct {
	files []*file
}

// New returns a keychain for the environment of this process: the file
// REGISTRY_AUTH_FILE names and no other, or in this order
// ${XDG_RUNTIME_DIR}/containers/auth.json,
// ${XDG_CONFIG_HOME}/containers/auth.json, and Docker's config.json.
func New() *Keychain { return &Keychain{files: search()} }

// Resolve is ResolveContext for callers without a context.
func (k *Keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext returns the credentials of a registry or repository: the
// first ones in the order of the files, and within a file those of the
// registry's credential helper, else of the longest path that holds the target.
// Without any it is authn.Anonymous. The errors are ErrFile and ErrHelper.
func (k *Keychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	host := canonical(target.RegistryStr())
	scope := host + strings.TrimPrefix(target.String(), target.RegistryStr())
	for _, file := range k.files {
		config, err := file.load()
		if errors.Is(err, fs.ErrNotExist) && !file.required {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := lookup(ctx, config, host, scope)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.path, err)
		}
		if found != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username:      found.Username,
				Password:      found.Password,
				IdentityToken: found.IdentityToken,
				RegistryToken: found.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}

// lookup finds credentials in one file; empty ones are none.
func lookup(ctx context.Context, config *configfile.ConfigFile, host, scope string) (types.AuthConfig, error) {
	for _, key := range slices.Sorted(maps.Keys(config.CredentialHelpers)) {
		if registryOf(key) == host {
			return ask(ctx, config.CredentialHelpers[key], key)
		}
	}
	if found := scoped(config.AuthConfigs, host, scope); found != (types.AuthConfig{}) {
		return found, nil
	}
	if config.CredentialsStore != "" {
		return ask(ctx, config.CredentialsStore, serverURL(host))
	}
	return types.AuthConfig{}, nil
}

// scoped finds the entry of the longest path that holds scope, then one whose
// key is a URL of the host, as docker login writes them.
func scoped(entries map[string]types.AuthConfig, host, scope string) types.AuthConfig {
	for key := scope; ; {
		if found, ok := entries[key]; ok {
			return secrets(found)
		}
		end := strings.LastIndexByte(key, '/')
		if end < 0 {
			break
		}
		key = key[:end]
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if registryOf(key) == host {
			return secrets(entries[key])
		}
	}
	return types.AuthConfig{}
}

// secrets drops from an entry what does not authenticate, so that an entry
// without credentials equals none: docker login leaves such entries beside a
// credential store.
func secrets(entry types.AuthConfig) types.AuthConfig {
	return types.AuthConfig{
		Username:      entry.Username,
		Password:      entry.Password,
		IdentityToken: entry.IdentityToken,
		RegistryToken: entry.RegistryToken,
	}
}
