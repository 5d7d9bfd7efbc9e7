package reference

import (
	// The algorithms of digests are those linked in: what the OCI image specification
	// registers.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ErrInvalidDigest is a text that is no digest.
var ErrInvalidDigest = errors.New("invalid digest")

// Digest is a digest of a known algorithm with as many hex digits as that gives. The
// zero value is no digest at all.
type Digest struct{ text string }

// ParseDigest reads a digest. Its error wraps ErrInvalidDigest and quotes the text,
// which may come from anybody.
func ParseDigest(s string) (Digest, error) {
	if digest.Digest(s).Validate() != nil {
		return Digest{}, fmt.Errorf("%w %s: %s", ErrInvalidDigest, Quote(s), expectedDigest)
	}
	return Digest{s}, nil
}

// MustDigest is ParseDigest for texts that are known to be digests, such as those of a
// test. It panics where one is none.
func MustDigest(s string) Digest { return must(ParseDigest(s)) }

// DigestOf is the SHA-256 digest of content.
func DigestOf(content []byte) Digest { return Digest{digest.FromBytes(content).String()} }

// Of is the digest of content by the same algorithm.
func (d Digest) Of(content []byte) Digest {
	return Digest{digest.Algorithm(d.Algorithm()).FromBytes(content).String()}
}

// Hash is a new hash of the digest's algorithm. IsSum compares its sum.
func (d Digest) Hash() hash.Hash { return digest.Digest(d.text).Algorithm().Hash() }

// IsSum reports whether what was written to the hash has this digest.
func (d Digest) IsSum(h hash.Hash) bool {
	return !d.IsZero() && digest.NewDigest(digest.Algorithm(d.Algorithm()), h).String() == d.text
}

// String is the digest's text, empty for the zero value.
func (d Digest) String() string { return d.text }

// Algorithm is what stands before the colon.
func (d Digest) Algorithm() string {
	algorithm, _, _ := strings.Cut(d.text, ":")
	return algorithm
}

// Hex is what stands after the colon.
func (d Digest) Hex() string {
	_, hex, _ := strings.Cut(d.text, ":")
	return hex
}

// IsZero reports whether there is no digest.
func (d Digest) IsZero() bool { return d.text == "" }

// MarshalText is for JSON and logs.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.text), nil }

// UnmarshalText is ParseDigest, but that an empty text is the zero value.
func (d *Digest) UnmarshalText(text []byte) error { return unmarshal(d, text, ParseDigest) }

func (Digest) tagOrDigest() {}
