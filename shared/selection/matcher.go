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

// Matcher is a Selection that is ready to be used, by any number of goroutines.
type Matcher struct {
	everything       bool
	include, exclude []*regexp.Regexp
	semver           *semver.Constraints
	list             map[string]bool
	limit            int
}

// Compile returns the matcher of a selection, or an *Error with every problem
// there is.
func (s Selection) Compile() (*Matcher, error) {
	m := &Matcher{everything: !s.restricted(), limit: s.Limit}
	var problems, more []Problem
	m.include, problems = expressions("include", s.Include)
	m.exclude, more = expressions("exclude", s.Exclude)
	problems = append(problems, more...)
	if s.Semver != "" {
		var err error
		if m.semver, err = semver.NewConstraint(s.Semver); err != nil {
			problems = append(problems, Problem{"semver", Whole, fmt.Sprintf(`%q is not a version constraint such as ">=1.2 <3"`, s.Semver)})
		}
	}
	problems = append(problems, s.checkList()...)
	if s.Limit < 0 {
		problems = append(problems, Problem{"limit", Whole, fmt.Sprintf("%d is less than nothing, expected 0 or more", s.Limit)})
	}
	if _, err := ParsePlatforms(s.Platforms); err != nil {
		var bad *Error
		errors.As(err, &bad)
		problems = append(problems, bad.Problems...)
	}
	if size := len(s.encode()); size > MaxBytes {
		problems = append(problems, Problem{"selection", Whole, fmt.Sprintf("it takes %d bytes, at most %d are possible; one expression can stand for many tags", size, MaxBytes)})
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
		problems = append(problems, Problem{"list", Whole, "cannot be combined with include, exclude, semver or limit"})
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

// expression compiles a regular expression that is matched at the start of a tag,
// or says why it can't.
func expression(text string) (*regexp.Regexp, string) {
	if text == "" {
		return nil, "it is empty, write .* for every tag"
	}
	// On its own first: what is unbalanced must not be balanced by our brackets.
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

// Match reports whether a tag is mirrored, Limit aside. Where the selection is not
// every tag, a Companion is only matched by List: otherwise it goes with its image.
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

// Candidate is a tag that Match has passed.
type Candidate struct {
	Tag reference.Tag
	// Updated is when the upstream last changed the tag; zero where it tells no times.
	Updated time.Time
}

// Newest returns the candidates that Limit leaves, in this order:
//
//  1. by time, newest first, where every candidate has one;
//  2. where one of them has none, or two have the same: by semantic version,
//     newest first. A leading v is allowed, and what is missing counts as 0, so
//     that v1.2 is 1.2.0. Prereleases come right below their release: 2.0.0,
//     2.0.0-rc.2, 2.0.0-rc.1, 1.9.0;
//  3. names that are no version come after all that are;
//  4. by name, in byte order, where nothing else decides.
func (m *Matcher) Newest(c []Candidate) []Candidate {
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
	if m.limit > 0 {
		ordered = ordered[:min(m.limit, len(ordered))]
	}
	newest := make([]Candidate, len(ordered))
	for i := range ordered {
		newest[i] = ordered[i].Candidate
	}
	return newest
}

// ranked has the version of a candidate, nil where its tag is none.
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

// companion is a tag that is made of the digest of what it belongs to: cosign's
// (Triangulate in github.com/sigstore/cosign, pkg/oci/remote), and the referrers
// tag of the OCI distribution specification, 1.1.
var companion = regexp.MustCompile(`^sha256-([0-9a-f]{64})(?:\.(?:sig|att|sbom))?$`)

// Companion tells whether a tag is a signature, an attestation, an SBOM or the
// list of referrers of an image, and the digest of that image. A mirrored tag
// brings the companions of its digest, whatever the selection says of their names;
// that is up to who mirrors it, who alone knows the digest.
func Companion(tag string) (digest reference.Digest, ok bool) {
	match := companion.FindStringSubmatch(tag)
	if match == nil {
		return reference.Digest{}, false
	}
	digest, err := reference.ParseDigest("sha256:" + match[1])
	return digest, err == nil
}
