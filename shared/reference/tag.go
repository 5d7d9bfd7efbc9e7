package reference

import (
	"errors"
	"fmt"
	"regexp"
)

// ErrInvalidTag is a text that is no tag.
var ErrInvalidTag = errors.New("invalid tag")

// ExpectedTag says in words what a tag is.
var ExpectedTag = fmt.Sprintf("expected up to %d letters, digits, '_', '.' and '-', starting with neither '.' nor '-'", maxTag)

// tagGrammar is that of the OCI distribution specification 1.1, "Pulling manifests".
var tagGrammar = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// Tag is a tag that the OCI distribution specification allows. The zero value is no
// tag at all.
type Tag struct{ text string }

// ParseTag reads a tag. Its error wraps ErrInvalidTag and quotes the text, which may
// come from anybody.
func ParseTag(s string) (Tag, error) {
	if tagGrammar.MatchString(s) {
		return Tag{s}, nil
	}
	return Tag{}, fmt.Errorf("%w %s: %s", ErrInvalidTag, Quote(s), ExpectedTag)
}

// MustTag is ParseTag for texts that are known to be tags, such as those of a test. It
// panics where one is none.
func MustTag(s string) Tag { return must(ParseTag(s)) }

// String is the tag's text, empty for the zero value.
func (t Tag) String() string { return t.text }

// IsZero reports whether there is no tag.
func (t Tag) IsZero() bool { return t.text == "" }

// MarshalText is for JSON and logs.
func (t Tag) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText is ParseTag, but that an empty text is the zero value.
func (t *Tag) UnmarshalText(text []byte) error { return unmarshal(t, text, ParseTag) }

func (Tag) tagOrDigest() {}

// TagOrDigest is what a manifest goes by in its repository: a Tag or a Digest.
type TagOrDigest interface {
	String() string
	IsZero() bool
	tagOrDigest()
}

// unmarshal reads a text that may be empty.
func unmarshal[T any](into *T, text []byte, parse func(string) (T, error)) error {
	var read T
	if len(text) > 0 {
		var err error
		if read, err = parse(string(text)); err != nil {
			return err
		}
	}
	*into = read
	return nil
}

func must[T any](read T, err error) T {
	if err != nil {
		panic(err)
	}
	return read
}
