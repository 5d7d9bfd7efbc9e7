package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

// What may be wrong with a copy, for errors.Is.
var (
	// ErrUnenforceable is a policy that this program cannot hold copies to.
	ErrUnenforceable = errors.New("this program cannot enforce the signature policy")
	// ErrUnreadable is a policy that cannot be read.
	ErrUnreadable = errors.New("the signature policy cannot be read")
	// ErrRejected is an image that the policy does not allow to be copied.
	ErrRejected = errors.New("rejected by the signature policy")
)

// acceptAnything is the type of the requirement that is none.
const acceptAnything = "insecureAcceptAnything"

// Policy is a containers-policy.json(5).
type Policy struct {
	Path string // empty: there is none, so that everything is accepted
	Text []byte
}

// Load reads the policy that counts; the root is that of Find. Its error is ErrUnreadable,
// or ErrUnenforceable where the policy asks for more than this program can check.
func Load(root string) (Policy, error) {
	path := Find(root)
	if path == "" {
		return Policy{}, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	p := Policy{path, text}
	strict, err := p.isStrict()
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %s: %w", ErrUnreadable, path, err)
	}
	switch {
	case !strict:
		return Policy{}, nil
	case !CanVerify:
		return Policy{}, fmt.Errorf("%w: %s asks for more than %s; set COPY_ENGINE=skopeo, or build with -tags containers_image_openpgp",
			ErrUnenforceable, path, acceptAnything)
	}
	return p, nil
}

// IsStrict reports whether the policy asks something of any image.
func (p Policy) IsStrict() bool { return p.Path != "" }

// isStrict reports whether the text does.
func (p Policy) isStrict() (bool, error) {
	type requirements []struct {
		Type string `json:"type"`
	}
	var text struct {
		Default    requirements                       `json:"default"`
		Transports map[string]map[string]requirements `json:"transports"`
	}
	if err := json.Unmarshal(p.Text, &text); err != nil {
		return false, err
	}
	asks := func(r requirements) bool {
		for _, one := range r {
			if one.Type != acceptAnything {
				return true
			}
		}
		return len(r) == 0
	}
	all := []requirements{text.Default}
	for _, scoped := range text.Transports["docker"] {
		all = append(all, scoped)
	}
	return slices.ContainsFunc(all, asks), nil
}
