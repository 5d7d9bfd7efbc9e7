package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// document is the part of a policy that is needed here.
type document struct {
	Default    requirements                       `json:"default"`
	Transports map[string]map[string]requirements `json:"transports"`
}

// requirements are those of a scope, all of which an image has to meet.
type requirements []requirement

type requirement struct {
	Type string `json:"type"`

	files
	Fulcio files `json:"fulcio"`
	PKI    files `json:"pki"`
}

// files are those with keys and certificates, as containers-policy.json(5) names them.
type files struct {
	Key           string   `json:"keyPath"`
	Keys          []string `json:"keyPaths"`
	RekorKey      string   `json:"rekorPublicKeyPath"`
	RekorKeys     []string `json:"rekorPublicKeyPaths"`
	CA            string   `json:"caPath"`
	Roots         string   `json:"caRootsPath"`
	Intermediates string   `json:"caIntermediatesPath"`
}

func (f files) all() []string {
	return slices.DeleteFunc(slices.Concat(f.Keys, f.RekorKeys, []string{f.Key, f.RekorKey, f.CA, f.Roots, f.Intermediates}), func(path string) bool { return path == "" })
}

func (p Policy) document() (document, error) {
	var d document
	err := json.Unmarshal(p.Text, &d)
	return d, err
}

// of returns the requirements of images from registries, by scope; "default" is one of them.
func (d document) of() map[string]requirements {
	all := map[string]requirements{defaultScope: d.Default}
	maps.Copy(all, d.Transports[dockerTransport])
	return all
}

const (
	// dockerTransport is the key of images in registries.
	dockerTransport = "docker"
	// defaultScope cannot be the name of a scope, which is lower case and has no spaces.
	defaultScope = "the default"
)

// isStrict reports whether the text may reject an image.
func (p Policy) isStrict() (bool, error) {
	d, err := p.document()
	if err != nil {
		return false, err
	}
	for _, all := range d.of() {
		if len(all) == 0 || slices.ContainsFunc(all, func(r requirement) bool { return r.Type != acceptAnything }) {
			return true, nil
		}
	}
	return false, nil
}

// errScope is returned for a scope that no image has: its requirements would never apply.
var errScope = errors.New("no image has the name")

// hubHosts are names of Docker Hub that containers/image replaces by docker.io.
var hubHosts = []string{"index.docker.io", "registry-1.docker.io"}

// checkScopes checks that each scope of images in registries begins with a host, as those do.
func (p Policy) checkScopes() error {
	d, err := p.document()
	for scope := range d.Transports[dockerTransport] {
		host, _, _ := strings.Cut(scope, "/")
		switch {
		case scope == "", host == "localhost":
		case !strings.ContainsAny(host, ".:"), slices.Contains(hubHosts, host):
			return fmt.Errorf("%w %q; images of Docker Hub are docker.io/library/NAME and docker.io/USER/NAME", errScope, scope)
		}
	}
	return err
}

// readKeys reads the keys that the policy names, because with a missing one it would reject
// every image.
func (p Policy) readKeys() error {
	d, err := p.document()
	if err != nil {
		return err
	}
	for _, all := range d.of() {
		for _, r := range all {
			for _, path := range slices.Concat(r.all(), r.Fulcio.all(), r.PKI.all()) {
				if _, err := os.ReadFile(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// AsksForSigstore reports whether the policy asks for sigstore's signatures of images in the
// first of these scopes that it has; if it has none of them, by default.
func (p Policy) AsksForSigstore(scopes ...string) bool {
	d, err := p.document()
	if err != nil {
		return false
	}
	all := d.of()
	for _, scope := range append(scopes, "", defaultScope) {
		if required, ok := all[scope]; ok {
			return slices.ContainsFunc(required, func(r requirement) bool { return r.Type == sigstoreSigned })
		}
	}
	return false
}
