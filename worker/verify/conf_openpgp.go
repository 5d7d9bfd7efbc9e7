//go:build containers_image_openpgp

package verify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
	"go.podman.io/storage/pkg/unshare"
	"go.yaml.in/yaml/v3"

	"github.com/osism/skopeo-worker/worker/policy"
)

// errConf is returned if the files of containers-registries.d(5) cannot be read or copied.
var errConf = errors.New("registries.d")

// conf is the configuration of containers/image for SIGNATURE_POLICY. If nil, the system's
// configuration is used.
//
// It reads signatures at the source, from which the image comes, and not at a mirror in
// registries.conf. If the policy requires Sigstore signatures, it reads those beside the image,
// which registries.d switches off by default.
type conf struct{}

const (
	// containers/image must not read registries.conf, because the worker's client does.
	noRegistriesConf       = os.DevNull
	noRegistriesConfFolder = os.DevNull + ".d" // does not exist
)

// addTo adds the configuration to the system context of an image. The caller must call remove,
// which deletes files.
func (c *conf) addTo(system *types.SystemContext, p policy.Policy, ref types.ImageReference) (remove func(), err error) {
	if c == nil {
		return func() {}, nil
	}
	system.SystemRegistriesConfPath, system.SystemRegistriesConfDirPath = noRegistriesConf, noRegistriesConfFolder
	if !p.AsksForSigstore(append([]string{ref.PolicyConfigurationIdentity()}, ref.PolicyConfigurationNamespaces()...)...) {
		return func() {}, nil
	}
	folder, err := os.MkdirTemp("", "skopeo-worker-registries.d-")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConf, err)
	}
	remove = func() { _ = os.RemoveAll(folder) }
	if err := attachments(folder); err != nil {
		remove()
		return nil, fmt.Errorf("%w: %w", errConf, err)
	}
	system.RegistriesDirPath = folder
	return remove, nil
}

// attachments copies the files of registries.d into a folder. The copy enables signatures beside
// the image, unless a file disables them.
func attachments(folder string) error {
	const key, use = "default-docker", "use-sigstore-attachments"
	var fallback map[string]any
	number := 0
	write := func(content any) error {
		text, err := yaml.Marshal(content)
		if err != nil {
			return err
		}
		number++
		return os.WriteFile(filepath.Join(folder, fmt.Sprintf("%04d.yaml", number)), text, 0o600)
	}
	for item, err := range configfile.Read(&configfile.File{
		Name: "registries", Extension: "yaml", DoNotLoadMainFiles: true, DoNotUseExtensionForConfigName: true, UserId: unshare.GetRootlessUID(),
	}) {
		if err != nil {
			return err
		}
		text, err := io.ReadAll(item.Reader)
		if err != nil {
			return err
		}
		var file map[string]any
		if err := yaml.Unmarshal(text, &file); err != nil {
			return fmt.Errorf("%s: %w", item.Name, err)
		}
		if found, ok := file[key].(map[string]any); ok {
			if fallback != nil {
				return fmt.Errorf("%s: %s is in another file, too", item.Name, key)
			}
			fallback = found
			delete(file, key)
		}
		if err := write(file); err != nil {
			return err
		}
	}
	if fallback == nil {
		fallback = map[string]any{}
	}
	if _, set := fallback[use]; !set {
		fallback[use] = true
	}
	return write(map[string]any{key: fallback})
}
