package selection

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Matcher is a compiled Selection. It is safe for concurrent use.
type Matcher struct {
	everything       bool
	include, exclude []*regexp.Regexp
	immutable, keep  []*regexp.Regexp
	semver           *semver.Constraints
	list             map[string]bool
}

// Compile compiles the selection. Its error is an *Error with all problems.
func (s Selection) Compile() (*Matcher, error) {
	m := &Matcher{everything: !s.restricted()}
	var problems []Problem
	expressions := func(key string, texts []string) []*regexp.Regexp {
		compiled, more := expressions(key, texts)
		problems = append(problems, more...)
		return compiled
	}
	m.include, m.exclude = expressions("include", s.Include), expressions("exclude", s.Exclude)
	m.immutable, m.keep = expressions("immutable", s.Immutable), expressions("keep", s.Keep)
	if s.Semver != "" {
		var err error
		if m.semver, err = semver.NewConstraint(s.Semver); err != nil {
			problems = append(problems, Problem{"semver", whole, fmt.Sprintf(`%q is not a version constraint such as ">=1.2 <3"`, s.Semver)})
		}
	}
	problems = append(problems, s.checkList()...)
	if !s.Backup.IsZero() {
		if err := s.Backup.Validate(); err != nil {
			problems = append(problems, Problem{"backup", whole, err.Error()})
		}
	}
	if s.MinTags < 0 {
		problems = append(problems, Problem{"min_tags", whole, fmt.Sprintf("%d is negative, expected 1 or more", s.MinTags)})
	}
	if s.NewerThan < 0 || s.MinAge < 0 {
		problems = append(problems, Problem{"newer_than", whole, "an age is negative"})
	}
	if s.Limit < 0 {
		problems = append(problems, Problem{"limit", whole, fmt.Sprintf("%d is negative, expected 0 or more", s.Limit)})
	}
	if _, err := ParsePlatforms(s.Platforms); err != nil {
		bad, _ := errors.AsType[*Error](err)
		problems = append(problems, bad.Problems...)
	}
	if size := len(s.encode()); size > MaxBytes {
		problems = append(problems, Problem{"selection", whole, fmt.Sprintf("it has %d bytes, but at most %d are possible; an expression can replace many tags", size, MaxBytes)})
	}
	if len(problems) > 0 {
		return nil, &Error{Problems: problems}
	}
	if len(s.List) > 0 {
		m.list = make(map[string]bool, len(s.List))
		for _, t := range s.List {
			m.list[t] = true
		}
	}
	return m, nil
}

func (s Selection) checkList() []Problem {
	var problems []Problem
	for i, t := range s.List {
		if _, err := reference.ParseTag(t); err != nil {
			problems = append(problems, Problem{"list", i, fmt.Sprintf("tag %q is invalid", t)})
		}
	}
	others := s
	others.List = nil
	if len(s.List) > 0 && others.restricted() {
		problems = append(problems, Problem{"list", whole, "cannot be combined with include, exclude, semver, newer_than or limit"})
	}
	return problems
}

func expressions(key string, texts []string) ([]*regexp.Regexp, []Problem) {
	var compiled []*regexp.Regexp
	var problems []Problem
	for i, text := range texts {
		re, why := expression(text)
		if why != "" {
			problems = append(problems, Problem{key, i, why})
			continue
		}
		compiled = append(compiled, re)
	}
	return compiled, problems
}

// expression compiles a regular expression that is matched at the start of a tag, or returns
// why it is invalid.
func expression(text string) (*regexp.Regexp, string) {
	if text == "" {
		return nil, "it is empty; write .* for all tags"
	}
	// It must be valid without the parentheses that are added below.
	if _, err := regexp.Compile(text); err != nil {
		return nil, explain(text, err)
	}
	re, err := regexp.Compile(`\A(?:` + text + `)`)
	if err != nil {
		return nil, explain(text, err)
	}
	return re, ""
}

func explain(text string, err error) string {
	var parse *syntax.Error
	if !errors.As(err, &parse) {
		return fmt.Sprintf("%q is not a regular expression: %v", text, err)
	}
	why := fmt.Sprintf("%q is not a regular expression: %s: %s", text, parse.Code, parse.Expr)
	if parse.Code == syntax.ErrInvalidPerlOp {
		why += " (RE2 has no lookahead or lookbehind; use exclude instead)"
	}
	return why
}

// Match reports whether a tag is mirrored, apart from Limit. A Companion matches if the selection has all
// tags, or if it is in List; any other is mirrored with its image.
func (m *Matcher) Match(tag string) bool {
	if m.everything {
		return true
	}
	if m.list != nil {
		return m.list[tag]
	}
	if _, companion := Companion(tag); companion {
		return false
	}
	matches := func(re *regexp.Regexp) bool { return re.MatchString(tag) }
	if len(m.include) > 0 && !slices.ContainsFunc(m.include, matches) || slices.ContainsFunc(m.exclude, matches) {
		return false
	}
	if m.semver == nil {
		return true
	}
	v, err := semver.NewVersion(tag)
	return err == nil && m.semver.Check(v)
}

// Immutable reports whether a tag is never replaced. It returns false for a Companion, because a list of
// referrers grows.
func (m *Matcher) Immutable(tag string) bool {
	if _, companion := Companion(tag); companion {
		return false
	}
	return slices.ContainsFunc(m.immutable, func(re *regexp.Regexp) bool { return re.MatchString(tag) })
}

// Keeps reports whether a tag is never pruned.
func (m *Matcher) Keeps(tag string) bool {
	return slices.ContainsFunc(m.keep, func(re *regexp.Regexp) bool { return re.MatchString(tag) })
}

// Candidate is a tag that Match accepts.
type Candidate struct {
	Tag reference.Tag
	// Updated is when the tag was last changed; zero if unknown.
	Updated time.Time
}

// Order sorts candidates:
//
//  1. by time, newest first, if all of them have a time;
//  2. otherwise, and if times are equal, by semantic version, newest first. A leading v is
//     allowed, and missing parts are 0, so that v1.2 is 1.2.0. Prereleases come after their
//     release: 2.0.0, 2.0.0-rc.2, 2.0.0-rc.1, 1.9.0;
//  3. tags that are not versions after those that are;
//  4. by name, in byte order.
func Order(c []Candidate) []Candidate {
	timed := !slices.ContainsFunc(c, func(c Candidate) bool { return c.Updated.IsZero() })
	ordered := make([]ranked, len(c))
	for i := range c {
		ordered[i] = ranked{Candidate: c[i]}
		ordered[i].version, _ = semver.NewVersion(c[i].Tag.String())
	}
	slices.SortFunc(ordered, func(a, b ranked) int {
		if timed && !a.Updated.Equal(b.Updated) {
			return b.Updated.Compare(a.Updated)
		}
		return compareVersions(a, b)
	})
	newest := make([]Candidate, len(ordered))
	for i := range ordered {
		newest[i] = ordered[i].Candidate
	}
	return newest
}

// ranked is a candidate with its version, which is nil if its tag is not one.
type ranked struct {
	Candidate
	version *semver.Version
}

func compareVersions(a, b ranked) int {
	switch {
	case a.version != nil && b.version != nil:
		return cmp.Or(b.version.Compare(a.version), cmp.Compare(a.Tag.String(), b.Tag.String()))
	case a.version != nil:
		return -1
	case b.version != nil:
		return 1
	}
	return cmp.Compare(a.Tag.String(), b.Tag.String())
}

// companion matches a tag that is made of the digest of another image: the tags of cosign (Triangulate in
// github.com/sigstore/cosign, pkg/oci/remote), and the referrers tag of the OCI distribution specification
// 1.1.
var companion = regexp.MustCompile(`^sha256-([0-9a-f]{64})(?:\.(?:sig|att|sbom))?$`)

// Companion reports whether a tag is that of a signature, an attestation, an SBOM or a list of referrers of
// another image, and returns the digest of that image. Companions are mirrored with their image, even if
// the selection does not match their tags.
func Companion(tag string) (digest reference.Digest, ok bool) {
	match := companion.FindStringSubmatch(tag)
	if match == nil {
		return reference.Digest{}, false
	}
	digest, err := reference.ParseDigest("sha256:" + match[1])
	return digest, err == nil
}

// Expression compiles a regular expression that is matched at the start of a name, as those of
// Selection.Include are.
func Expression(text string) (*regexp.Regexp, error) {
	re, why := expression(text)
	if why != "" {
		return nil, errors.New(why)
	}
	return re, nil
}
