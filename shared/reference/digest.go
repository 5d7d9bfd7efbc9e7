package reference

import (
	// The algorithms that the OCI image specification registers.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
	"hash"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Digest is a valid digest of a known algorithm. The zero value stands for none.
type Digest struct{ text string }

// ParseDigest parses a digest. Its error quotes the text safely.
func ParseDigest(s string) (Digest, error) {
	if !isSHA256(s) && digest.Digest(s).Validate() != nil {
		return Digest{}, fmt.Errorf("invalid digest %s: %s", Quote(s), expectedDigest)
	}
	return Digest{s}, nil
}

// isSHA256 reports whether a text is a digest of the most common algorithm. There may be a
// million of them, and the library takes several times as long to find out.
func isSHA256(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// MustDigest is ParseDigest for constants, as in tests. It panics if the text is invalid.
func MustDigest(s string) Digest { return must(ParseDigest(s)) }

// DigestOf returns the SHA-256 digest of content.
func DigestOf(content []byte) Digest { return Digest{digest.FromBytes(content).String()} }

// Of returns the digest of content with the same algorithm.
func (d Digest) Of(content []byte) Digest {
	return Digest{digest.Algorithm(d.Algorithm()).FromBytes(content).String()}
}

// Hash returns a new hash with the digest's algorithm, for IsSum.
func (d Digest) Hash() hash.Hash { return digest.Digest(d.text).Algorithm().Hash() }

// IsSum reports whether the content that was written to the hash has this digest.
func (d Digest) IsSum(h hash.Hash) bool {
	return !d.IsZero() && digest.NewDigest(digest.Algorithm(d.Algorithm()), h).String() == d.text
}

// String returns the digest's text, "" for the zero value.
func (d Digest) String() string { return d.text }

// Algorithm returns the part before the colon.
func (d Digest) Algorithm() string {
	algorithm, _, _ := strings.Cut(d.text, ":")
	return algorithm
}

// Hex returns the part after the colon.
func (d Digest) Hex() string {
	_, hex, _ := strings.Cut(d.text, ":")
	return hex
}

// IsZero reports whether d is the zero value.
func (d Digest) IsZero() bool { return d.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.text), nil }

// UnmarshalText is ParseDigest, except that an empty text gives the zero value.
func (d *Digest) UnmarshalText(text []byte) error { return unmarshal(d, text, ParseDigest) }

func (Digest) tagOrDigest() {}
