// Package selection says which tags of a repository are mirrored, and what of
// each. The planner writes it, the workers go by it.
package selection

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxBytes is how large a selection may be as JSON. It travels with every message
// of its repository, and an eighth of one leaves room for the images.
const MaxBytes = 64 << 10

// hashBytes of a SHA-256 name a selection: 128 bits, so that no two ever meet.
const hashBytes = 16

// Selection says which tags of a repository are mirrored, and what of each. The
// zero value is everything.
//
// A tag is mirrored where it matches Include (any of it), Semver, and nothing of
// Exclude; Limit is counted after that. List stands alone. A mirrored tag brings
// its signatures and attestations even where nothing here would match their tags:
// see Companion.
type Selection struct {
	// Include and Exclude are regular expressions (RE2), matched at the start of
	// the tag, not at its end: "1.2" matches 1.20.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Semver is a constraint such as ">=1.2 <3" or "~1.4 || ^2". A prerelease, and
	// so "1.25-alpine", only satisfies one that names a prerelease itself.
	Semver string `json:"semver,omitempty"`
	// List is exactly these tags.
	List []string `json:"list,omitempty"`
	// Limit is how many tags are mirrored at most, the newest first; 0: all.
	Limit int `json:"limit,omitempty"`

	// Platforms are os/arch[/variant], as ParsePlatforms gives them; none: all.
	Platforms []string `json:"platforms,omitempty"`
	// WithoutAttestations leaves out the attestation manifests of an index.
	WithoutAttestations bool `json:"without_attestations,omitempty"`
	// Referrers mirrors what refers to an image too: signatures, SBOMs.
	Referrers bool `json:"referrers,omitempty"`
}

// IsZero reports whether the selection is everything.
func (s Selection) IsZero() bool {
	return !s.restricted() && len(s.Platforms) == 0 && !s.WithoutAttestations && !s.Referrers
}

// restricted reports whether not every tag is mirrored.
func (s Selection) restricted() bool {
	return len(s.Include) > 0 || len(s.Exclude) > 0 || s.Semver != "" || len(s.List) > 0 || s.Limit != 0
}

// Pointer returns the selection as messages carry it: nil where it is everything.
func (s Selection) Pointer() *Selection {
	if s.IsZero() {
		return nil
	}
	return &s
}

// Tags is the part of the selection that says which tags.
func (s Selection) Tags() Selection {
	return Selection{Include: s.Include, Exclude: s.Exclude, Semver: s.Semver, List: s.List, Limit: s.Limit}
}

// Contents is the part of the selection that says what of each tag: all that
// matters once the tag is known.
func (s Selection) Contents() Selection {
	return Selection{Platforms: s.Platforms, WithoutAttestations: s.WithoutAttestations, Referrers: s.Referrers}
}

// Hash is one for equal selections, whatever the order of their items, and stays
// the same from build to build.
func (s Selection) Hash() string {
	s.Include, s.Exclude, s.List, s.Platforms = set(s.Include), set(s.Exclude), set(s.List), set(s.Platforms)
	s.Semver = strings.Join(strings.Fields(s.Semver), " ")
	sum := sha256.Sum256(s.encode())
	return hex.EncodeToString(sum[:hashBytes])
}

// encode cannot fail: there are only strings, numbers and booleans.
func (s Selection) encode() []byte {
	data, _ := json.Marshal(s)
	return data
}

func set(items []string) []string {
	items = slices.Clone(items)
	slices.Sort(items)
	return slices.Compact(items)
}

// ErrInvalid is a selection that means nothing.
var ErrInvalid = errors.New("invalid selection")

// Whole is the index of a problem that is not one item's.
const Whole = -1

// Problem is one mistake in a selection.
type Problem struct {
	// Key is the JSON name of the field: "include".
	Key string
	// Index is the item's, from 0, or Whole.
	Index int
	// Text is what is wrong, without the key.
	Text string
}

func (p Problem) String() string {
	if p.Index == Whole {
		return p.Key + ": " + p.Text
	}
	return fmt.Sprintf("%s[%d]: %s", p.Key, p.Index, p.Text)
}

// Error is every problem of a selection. It is an ErrInvalid.
type Error struct{ Problems []Problem }

// Error has one text line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Is implements errors.Is.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// Validate returns nil, or an *Error with every problem there is.
func (s Selection) Validate() error {
	_, err := s.Compile()
	return err
}
