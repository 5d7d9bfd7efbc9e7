package reference

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalidTag is returned for a text that is not a tag.
var ErrInvalidTag = errors.New("invalid tag")

// ExpectedTag describes a valid tag.
var ExpectedTag = fmt.Sprintf("expected up to %d letters, digits, '_', '.' and '-', starting with neither '.' nor '-'", maxTag)

// isTag reports whether a text is a tag by the OCI distribution specification 1.1, "Pulling
// manifests". There may be a million tags, for which a regular expression takes a second.
func isTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-'
	})
}

// Tag is a valid tag. The zero value stands for none.
type Tag struct{ text string }

// ParseTag parses a tag. Its error wraps ErrInvalidTag and quotes the text safely.
func ParseTag(s string) (Tag, error) {
	if isTag(s) {
		return Tag{s}, nil
	}
	return Tag{}, fmt.Errorf("%w %s: %s", ErrInvalidTag, Quote(s), ExpectedTag)
}

// MustTag is ParseTag for constants, as in tests. It panics if the text is invalid.
func MustTag(s string) Tag { return must(ParseTag(s)) }

// String returns the tag's text, "" for the zero value.
func (t Tag) String() string { return t.text }

// IsZero reports whether t is the zero value.
func (t Tag) IsZero() bool { return t.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (t Tag) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText is ParseTag, except that an empty text gives the zero value.
func (t *Tag) UnmarshalText(text []byte) error { return unmarshal(t, text, ParseTag) }

func (Tag) tagOrDigest() {}

// TagOrDigest identifies a manifest in its repository. It is a Tag or a Digest.
type TagOrDigest interface {
	String() string
	IsZero() bool
	tagOrDigest()
}

// unmarshal parses a text that may be empty.
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
