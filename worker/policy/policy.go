package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

// ErrUnenforceable is a policy that this program cannot hold copies to.
var ErrUnenforceable = errors.New("the signature policy cannot be enforced")

// acceptAnything is the type of the requirement that is none.
const acceptAnything = "insecureAcceptAnything"

// Enforceable returns an error, ErrUnenforceable, where the policy asks for more than this
// program can check, and another one where it cannot be read. The root is that of Find.
func Enforceable(root string) error {
	path := Find(root)
	if path == "" {
		return nil
	}
	accepts, err := acceptsAnything(path)
	if err != nil || accepts {
		return err
	}
	return fmt.Errorf("%w: %s asks for more than %s; set COPY_ENGINE=skopeo", ErrUnenforceable, path, acceptAnything)
}

// acceptsAnything reports whether the policy in a file accepts every image of every
// registry.
func acceptsAnything(path string) (bool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading the signature policy: %w", err)
	}
	type requirements []struct {
		Type string `json:"type"`
	}
	var p struct {
		Default    requirements                       `json:"default"`
		Transports map[string]map[string]requirements `json:"transports"`
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return false, fmt.Errorf("reading the signature policy %s: %w", path, err)
	}
	asks := func(r requirements) bool {
		for _, one := range r {
			if one.Type != acceptAnything {
				return true
			}
		}
		return len(r) == 0
	}
	all := []requirements{p.Default}
	for _, scoped := range p.Transports["docker"] {
		all = append(all, scoped)
	}
	return !slices.ContainsFunc(all, asks), nil
}
