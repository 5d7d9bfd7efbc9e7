// Package selection selects which tags of a repository are mirrored, and which parts of each image. The
// planner writes selections, and the workers apply them.
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

// MaxBytes is the largest size of a selection as JSON. Each message about its repository has it. It is an
// eighth of the largest message, which leaves room for the images.
const MaxBytes = 64 << 10

// hashBytes is how many bytes of a SHA-256 are the hash of a selection. 128 bits are enough.
const hashBytes = 16

// Selection selects tags, and parts of each image. The zero value selects everything.
//
// A tag is mirrored if it matches an expression of Include, and Semver, and no expression of Exclude; Limit
// applies to the result. List cannot be combined with them. Signatures and attestations of a mirrored tag
// are mirrored even if their tags do not match; see Companion.
type Selection struct {
	// Include and Exclude are regular expressions (RE2). They are matched at the start of a tag,
	// so "1.2" also matches 1.20.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Semver is a constraint such as ">=1.2 <3" or "~1.4 || ^2". A prerelease such as
	// "1.25-alpine" only satisfies constraints that name a prerelease.
	Semver string `json:"semver,omitempty"`
	// List has the tags themselves.
	List []string `json:"list,omitempty"`
	// NewerThan leaves out tags that have had their digest for longer.
	NewerThan Age `json:"newer_than,omitzero"`
	// Limit is how many tags are mirrored at most, the newest first. If 0, there is no limit.
	Limit int `json:"limit,omitempty"`
	// MinTags is how many tags the selection must match, apart from NewerThan and Limit. If it
	// matches fewer, the repository fails, because something may be wrong with the source.
	MinTags int `json:"min_tags,omitempty"`

	// Platforms are os/arch[/variant], as ParsePlatforms returns them. If empty, all are mirrored.
	Platforms []string `json:"platforms,omitempty"`
	// WithoutAttestations leaves out the attestations in an index.
	WithoutAttestations bool `json:"without_attestations,omitempty"`
	// Referrers includes the referrers of an image, such as signatures and SBOMs.
	Referrers bool `json:"referrers,omitempty"`

	// MinAge is how long a tag must have had its digest before it is mirrored.
	MinAge Age `json:"min_age,omitzero"`
	// Immutable are regular expressions of tags that are never replaced at the destination.
	// They are matched as in Include.
	Immutable []string `json:"immutable,omitempty"`
	// Keep are regular expressions of tags that are never pruned at the destination. They are
	// matched as in Include.
	Keep []string `json:"keep,omitempty"`
	// Backup is how replaced images are kept at the destination.
	Backup Backup `json:"backup,omitzero"`
}

// IsZero reports whether the selection selects everything.
func (s Selection) IsZero() bool {
	return !s.restricted() && len(s.Platforms) == 0 && !s.WithoutAttestations && !s.Referrers && len(s.Immutable) == 0 && len(s.Keep) == 0 && s.MinAge == 0 && s.MinTags == 0 && s.Backup.IsZero()
}

// restricted reports whether the selection leaves out tags.
func (s Selection) restricted() bool {
	return len(s.Include) > 0 || len(s.Exclude) > 0 || s.Semver != "" || len(s.List) > 0 || s.Limit != 0 || s.NewerThan != 0
}

// Pointer returns the selection for a message: nil if it selects everything.
func (s Selection) Pointer() *Selection {
	if s.IsZero() {
		return nil
	}
	return &s
}

// Tags returns the part of the selection that selects tags.
func (s Selection) Tags() Selection {
	return Selection{Include: s.Include, Exclude: s.Exclude, Semver: s.Semver, List: s.List, Limit: s.Limit, NewerThan: s.NewerThan}
}

// Contents returns the part of the selection that applies to a single tag: which parts of its image are
// mirrored, from which age, and whether it is immutable, kept or backed up.
func (s Selection) Contents() Selection {
	return Selection{Platforms: s.Platforms, WithoutAttestations: s.WithoutAttestations, Referrers: s.Referrers, MinAge: s.MinAge, Immutable: s.Immutable, Keep: s.Keep, Backup: s.Backup}
}

// Hash returns the same text for equal selections, whatever the order of their items. It must not change
// between versions.
func (s Selection) Hash() string {
	s.Include, s.Exclude, s.List, s.Platforms = set(s.Include), set(s.Exclude), set(s.List), set(s.Platforms)
	s.Immutable, s.Keep = set(s.Immutable), set(s.Keep)
	s.Semver = strings.Join(strings.Fields(s.Semver), " ")
	sum := sha256.Sum256(s.encode())
	return hex.EncodeToString(sum[:hashBytes])
}

// encode returns the selection as JSON.
func (s Selection) encode() []byte {
	data, _ := json.Marshal(s) // cannot fail: the fields are strings, numbers and booleans
	return data
}

func set(items []string) []string {
	items = slices.Clone(items)
	slices.Sort(items)
	return slices.Compact(items)
}

// ErrInvalid is returned for an invalid selection.
var ErrInvalid = errors.New("invalid selection")

// whole is the Index of a problem that does not belong to one item.
const whole = -1

// Problem is a mistake in a selection.
type Problem struct {
	// Key is the JSON name of the field, such as "include".
	Key string
	// Index is the item's index from 0, or -1 if the problem does not belong to one item.
	Index int
	// Text describes the problem, without the key.
	Text string
}

func (p Problem) String() string {
	if p.Index == whole {
		return p.Key + ": " + p.Text
	}
	return fmt.Sprintf("%s[%d]: %s", p.Key, p.Index, p.Text)
}

// Error has all problems of a selection. It is an ErrInvalid.
type Error struct{ Problems []Problem }

// Error returns a line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Is implements errors.Is.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// Validate returns nil, or an *Error with all problems.
func (s Selection) Validate() error {
	_, err := s.Compile()
	return err
}
