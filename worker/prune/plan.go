// Package prune deletes tags from destinations that the list or the source dropped long ago, in
// two steps: Survey makes a plan and changes nothing; Execution carries out the part of a plan
// that is still valid.
package prune

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// Version is the version of plans.
const Version = 1

var (
	// ErrPlan is returned for a file that is not a plan.
	ErrPlan = exit.Usage.New("not a plan of planner prune")
	// ErrCap is returned if a plan would delete more than it may.
	ErrCap = exit.Failed.New("the plan would delete too much")
)

// Plan lists the tags to delete, and those that stay.
type Plan struct {
	Version     int       `json:"version" yaml:"version"`
	Mirror      string    `json:"mirror" yaml:"mirror"`
	Destination string    `json:"destination" yaml:"destination"` // MIRROR_DEST_URL
	Made        time.Time `json:"made" yaml:"made"`
	Grace       string    `json:"grace" yaml:"grace"`
	// Recorded is how many tags are recorded as mirrored, and Tags how many of them are to be
	// deleted. Bytes is the size of the blobs that no other tag of the same repository needs.
	Recorded     int          `json:"recorded" yaml:"recorded"`
	Tags         int          `json:"tags" yaml:"tags"`
	Bytes        int64        `json:"bytes" yaml:"bytes"`
	Repositories []Repository `json:"repositories" yaml:"repositories"`
	Left         []Left       `json:"left" yaml:"left"`
}

// Repository is a plan's part for a destination repository.
type Repository struct {
	Repository reference.Repository `json:"repository" yaml:"repository"`
	Recorded   int                  `json:"recorded" yaml:"recorded"`
	Tags       []Tag                `json:"tags" yaml:"tags"`
	// Manifests have no tag and are deleted after the tags. They are below an index, or refer
	// to an image.
	Manifests []reference.Digest `json:"manifests,omitempty" yaml:"manifests,omitempty"`
}

// Tag is a tag to delete, if it still has the digest.
type Tag struct {
	Tag    reference.Tag    `json:"tag" yaml:"tag"`
	Digest reference.Digest `json:"digest" yaml:"digest"`
	Why    string           `json:"why" yaml:"why"`
	Since  time.Time        `json:"since,omitzero" yaml:"since,omitempty"`
	// Alone reports whether only the tag is deleted, because another tag needs the digest.
	Alone bool `json:"alone,omitempty" yaml:"alone,omitempty"`
	// Of is the image to which a companion belongs: a signature, an attestation or a list of
	// referrers. It is zero for an image.
	Of    reference.Digest `json:"of,omitzero" yaml:"of,omitempty"`
	Bytes int64            `json:"bytes" yaml:"bytes"`
}

// Left is a dropped tag that stays, with the reason; without a tag, all of the repository stays.
type Left struct {
	Repository reference.Repository `json:"repository" yaml:"repository"`
	Tag        reference.Tag        `json:"tag,omitzero" yaml:"tag,omitempty"`
	Why        string               `json:"why" yaml:"why"`
}

// ID identifies a plan by its content.
func (p Plan) ID() string {
	data, _ := json.Marshal(p) // none of its types has an error
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// Check returns an ErrPlan if the plan is incomplete.
func (p Plan) Check() error {
	if p.Version != Version {
		return fmt.Errorf("%w: version %d, expected %d", ErrPlan, p.Version, Version)
	}
	if p.Mirror == "" || p.Destination == "" {
		return fmt.Errorf("%w: the mirror name or the destination is missing", ErrPlan)
	}
	for _, r := range p.Repositories {
		if r.Repository.IsZero() {
			return fmt.Errorf("%w: a repository without a name", ErrPlan)
		}
		if !Below(r.Repository, p.Destination) {
			return fmt.Errorf("%w: %s is not below %s", ErrPlan, r.Repository, p.Destination)
		}
		for _, t := range r.Tags {
			if t.Tag.IsZero() || t.Digest.IsZero() {
				return fmt.Errorf("%w: %s: a tag without a name or a digest", ErrPlan, r.Repository)
			}
		}
	}
	return nil
}

// accompanies reports whether a tag belongs to an image, or to a companion of an image that is
// deleted, too. It checks the names, because the user may have edited the plan.
func (r Repository) accompanies(t Tag) bool {
	if t.Of.IsZero() {
		return true
	}
	subject, companion := selection.Companion(t.Tag.String())
	return companion && subject == t.Of && (slices.Contains(r.Manifests, t.Of) ||
		slices.ContainsFunc(r.Tags, func(other Tag) bool { return other.Digest == t.Of }))
}

// Below reports whether a repository is below a destination, host[:port][/prefix].
func Below(repository reference.Repository, destination string) bool {
	return strings.HasPrefix(repository.String(), strings.TrimSuffix(destination, "/")+"/")
}

// Share is a percentage, between 0 and 100.
type Share struct{ percent float64 }

// MustShare returns n percent.
func MustShare(percent float64) Share { return Share{percent} }

var errShare = errors.New("expected a percentage such as 10%")

// ParseShare reads a percentage such as 10%.
func ParseShare(text string) (Share, error) {
	digits, ok := strings.CutSuffix(text, "%")
	percent, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(percent >= 0 && percent <= 100) {
		return Share{}, errShare
	}
	return Share{percent}, nil
}

func (s Share) String() string { return strconv.FormatFloat(s.percent, 'f', -1, 64) + "%" }

// exceeded reports whether n is more than the share of all.
func (s Share) exceeded(n, all int) bool { return float64(n)*100 > s.percent*float64(all) }

// Caps limit how much a plan may delete.
type Caps struct {
	All           Share // of all recorded tags
	PerRepository Share // of the recorded tags of each repository
}

// Check returns an ErrCap if the plan would delete more.
func (c Caps) Check(p Plan) error {
	if c.All.exceeded(p.Tags, p.Recorded) {
		return fmt.Errorf("%w: %d of %d mirrored tags, more than --max %s; check that the list is whole, or raise --max", ErrCap, p.Tags, p.Recorded, c.All)
	}
	for _, r := range p.Repositories {
		if n := r.images(); c.PerRepository.exceeded(n, r.Recorded) {
			return fmt.Errorf("%w: %d of %d mirrored tags of %s, more than --max-per-repository %s; check its entry in the list and its source, or raise --max-per-repository", ErrCap, n, r.Recorded, r.Repository, c.PerRepository)
		}
	}
	return nil
}

// images counts the tags of images.
func (r Repository) images() (n int) {
	for _, t := range r.Tags {
		if t.Of.IsZero() {
			n++
		}
	}
	return n
}
