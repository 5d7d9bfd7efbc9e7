// Package subject builds and parses all NATS subjects of the system.
package subject

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The roots of the stream's subjects.
const (
	All    = "mirror.>"
	Plan   = "mirror.plan"   // schedules of the planner
	Later  = "mirror.later"  // schedules of the workers: remainders and parts
	Chunk  = "mirror.chunk"  // due chunks, which the workers consume
	Failed = "mirror.failed" // failure records, one for each repository

	// Nothing is a subject that never has a message, because no name is encoded like this.
	Nothing = Plan + ".=nothing"

	Roots = "mirror.*" // the roots themselves, which should have no message
)

// The longest encoded tokens, in bytes. The longest subject is that of a failure record: 14 + 33
// (a mirror name) + 65 + 129 + a page number. It stays below 255 bytes, the longest file name of
// the store.
const (
	maxRegistry   = 64
	maxRepository = 128
)

// ErrNotOurs is returned for a subject that this package does not build.
var ErrNotOurs = errors.New("not a subject of this system")

var (
	mirrorName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	// token matches encoded names, IDs of runs, and tokens of chunks.
	token = regexp.MustCompile(`^[A-Za-z0-9=_-]+$`)
)

// ValidName reports whether s can be a mirror name.
func ValidName(s string) bool { return mirrorName.MatchString(s) }

// ValidToken reports whether s can be a token of a subject.
func ValidToken(s string) bool { return token.MatchString(s) }

// Address is the part of a chunk's subject below its root. It stays the same when the chunk becomes
// due.
type Address struct {
	Name, Run string
	Registry  string // encoded
	Token     string // number of the chunk, with the suffix of a remainder or part
}

// NewAddress encodes registry and takes the other tokens as they are.
func NewAddress(name, run, registry, token string) Address {
	return Address{Name: name, Run: run, Registry: encode(registry, maxRegistry), Token: token}
}

// ParseAddress parses a subject below Plan, Later or Chunk.
func ParseAddress(subject string) (Address, error) {
	t := strings.Split(subject, ".")
	if len(t) != 6 || t[0] != "mirror" || t[1] != "plan" && t[1] != "later" && t[1] != "chunk" ||
		!ValidName(t[2]) || !ValidToken(t[3]) || !ValidToken(t[4]) || !ValidToken(t[5]) {
		return Address{}, fmt.Errorf("%w: %q", ErrNotOurs, subject)
	}
	return Address{Name: t[2], Run: t[3], Registry: t[4], Token: t[5]}, nil
}

// Under returns the subject of the address below root, one of Plan, Later and Chunk.
func (a Address) Under(root string) string {
	return root + "." + a.Name + "." + a.Run + "." + a.Registry + "." + a.Token
}

// Number returns the first part of the token: the number of the chunk in its plan, which its
// remainders and parts have, too.
func (a Address) Number() string {
	n, _, _ := strings.Cut(a.Token, "-")
	return n
}

// Remainder returns the address of the n-th message, from 1, that a delivery leaves in place of the
// message with this sequence. The mark is that of the delivery. No other delivery has the same
// address, because the subject of a schedule must not be written twice.
func (a Address) Remainder(sequence uint64, mark string, n int) Address {
	a.Token = fmt.Sprintf("%s-%d-%s", a.Number(), sequence, mark)
	if n > 1 {
		a.Token += fmt.Sprintf("-%d", n)
	}
	return a
}

// Mark returns the mark of a Remainder, and "" for any other address.
func (a Address) Mark() string {
	if parts := strings.Split(a.Token, "-"); len(parts) > 2 {
		return parts[2]
	}
	return ""
}

// RegistryName decodes the registry. It returns false if its name was too long and so was replaced
// by a hash.
func (a Address) RegistryName() (string, bool) {
	if a.Registry == "=e" {
		return "", true
	}
	var b strings.Builder
	for rest := a.Registry; rest != ""; {
		plain, escaped, more := strings.Cut(rest, "=")
		b.WriteString(plain)
		if !more {
			break
		}
		c, err := hex.DecodeString(escaped[:min(2, len(escaped))])
		if err != nil || len(c) != 1 {
			return "", false
		}
		b.Write(c)
		rest = escaped[2:]
	}
	return b.String(), true
}

// OfRun matches every subject of a run below Plan, Later and Chunk, so that one request shows
// whether the run is over.
func OfRun(name, run string) string { return "mirror.*." + name + "." + run + ".>" }

// OfNameAnywhere matches the subjects of a mirror name below all roots.
func OfNameAnywhere(name string) string { return "mirror.*." + name + ".>" }

// OfName matches the subjects of a mirror name below root.
func OfName(root, name string) string { return root + "." + name + ".>" }

// OfRunUnder matches the subjects of a run below root.
func OfRunUnder(root, name, run string) string { return root + "." + name + "." + run + ".>" }

// OfRegistryUnder matches the subjects of a source registry below root, of all runs.
func OfRegistryUnder(root, registry string) string {
	return root + ".*.*." + encode(registry, maxRegistry) + ".*"
}

// Failure returns the subject of a page of a repository's failure record. A record that is too
// large for one message has several pages, counted from 1.
func Failure(name, registry, repository string, page int) string {
	s := Failed + "." + name + "." + encode(registry, maxRegistry) + "." + encode(repository, maxRepository)
	if page > 1 {
		s += fmt.Sprintf(".%d", page)
	}
	return s
}

// FailuresOf matches the failure records of a mirror name for a source registry.
func FailuresOf(name, registry string) string {
	return Failed + "." + name + "." + encode(registry, maxRegistry) + ".>"
}

// ParseFailure parses the subject of a page of a failure record. It returns the mirror name, the
// subject of the record's first page, and the number of the page.
func ParseFailure(subject string) (name, record string, page int, err error) {
	t := strings.Split(subject, ".")
	page = 1
	if len(t) == 6 {
		page, err = strconv.Atoi(t[5])
		if err != nil || page < 2 || strconv.Itoa(page) != t[5] {
			return "", "", 0, fmt.Errorf("%w: %q", ErrNotOurs, subject)
		}
		t = t[:5]
	}
	if len(t) != 5 || t[0]+"."+t[1] != Failed || !ValidName(t[2]) || !ValidToken(t[3]) || !ValidToken(t[4]) {
		return "", "", 0, fmt.Errorf("%w: %q", ErrNotOurs, subject)
	}
	return t[2], strings.Join(t, "."), page, nil
}

// upperHex are the digits of an encoded byte. Each request encodes several subjects, and fmt would
// take most of that time.
const upperHex = "0123456789ABCDEF"

// encode returns s as one token of a subject. Bytes other than lower-case letters, digits, - and _
// become =XX. A token that would be too long ends in =h and a hash. An empty one, which NATS does
// not allow, is =e. Different texts have different tokens.
func encode(s string, limit int) string {
	if s == "" {
		return "=e"
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			b.WriteByte('=')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&0xf])
		}
	}
	if b.Len() <= limit {
		return b.String()
	}
	tail := "=h" + Hash(s)
	return b.String()[:limit-len(tail)] + tail
}

// Hash returns a token for a text of any length, such as the key of a bucket.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}
