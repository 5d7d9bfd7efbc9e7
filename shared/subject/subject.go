// Package subject names every NATS subject the system writes, and reads the
// names back. No other package builds a subject by hand.
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
	Later  = "mirror.later"  // schedules of the workers: remainders
	Chunk  = "mirror.chunk"  // due chunks, what the workers consume
	Failed = "mirror.failed" // failure records, one repository each

	// Nothing is a subject without messages: no name is encoded like it.
	Nothing = Plan + ".=nothing"

	Roots = "mirror.*" // the roots themselves, on which there should be no message
)

// Lengths of an encoded token. With a mirror name of 32 bytes, the longest
// subject is a failure record's: 14 + 33 + 65 + 129 + a page number, which
// stays below the 255 bytes that a file store can hold as one file name.
const (
	maxRegistry   = 64
	maxRepository = 128
)

// ErrNotOurs is returned for a subject that this package did not build.
var ErrNotOurs = errors.New("not a subject of this system")

var (
	mirrorName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	// token is what encode makes, the id of a run, and the token of a chunk.
	token = regexp.MustCompile(`^[A-Za-z0-9=_-]+$`)
)

// ValidName reports whether s can be a mirror name.
func ValidName(s string) bool { return mirrorName.MatchString(s) }

// ValidToken reports whether s can be a token of a subject of ours.
func ValidToken(s string) bool { return token.MatchString(s) }

// Address is the part of a chunk's subject that stays the same on its way from
// plan or later to chunk.
type Address struct {
	Name, Run string
	Registry  string // encoded
	Token     string // number of the chunk, and what a worker appended to it
}

// NewAddress encodes registry and takes the other tokens as they are.
func NewAddress(name, run, registry, token string) Address {
	return Address{Name: name, Run: run, Registry: encode(registry, maxRegistry), Token: token}
}

// ParseAddress reads a plan, later or chunk subject back.
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

// Number is the token's first part: the chunk's number in its plan, which
// remainders and parts of the chunk share.
func (a Address) Number() string {
	n, _, _ := strings.Cut(a.Token, "-")
	return n
}

// Remainder returns the address of the n-th message, from 1, that a delivery of the message with
// this sequence leaves in its place. The mark is that of the delivery. No other delivery has the
// same address: the subject of a schedule must not be written twice.
func (a Address) Remainder(sequence uint64, mark string, n int) Address {
	a.Token = fmt.Sprintf("%s-%d-%s", a.Number(), sequence, mark)
	if n > 1 {
		a.Token += fmt.Sprintf("-%d", n)
	}
	return a
}

// Mark returns the mark of a Remainder, and "" of another address.
func (a Address) Mark() string {
	if parts := strings.Split(a.Token, "-"); len(parts) > 2 {
		return parts[2]
	}
	return ""
}

// RegistryName decodes the registry. It reports false for one whose name was too
// long to be kept.
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

// OfRun matches every plan, later and chunk subject of a run with one filter,
// so that one request shows whether the run is over.
func OfRun(name, run string) string { return "mirror.*." + name + "." + run + ".>" }

// OfNameAnywhere matches every plan, later and chunk subject of a mirror name, and those
// of its failures.
func OfNameAnywhere(name string) string { return "mirror.*." + name + ".>" }

// OfName matches the subjects of a mirror name below root.
func OfName(root, name string) string { return root + "." + name + ".>" }

// OfRunUnder matches the subjects of a run below root.
func OfRunUnder(root, name, run string) string { return root + "." + name + "." + run + ".>" }

// OfRegistryUnder matches the subjects of a source registry below root, of all runs.
func OfRegistryUnder(root, registry string) string {
	return root + ".*.*." + encode(registry, maxRegistry) + ".*"
}

// Failure is the subject of a repository's failure record. Page 1 has the plain
// name; further pages, for records too large for one message, are appended to it.
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

// ParseFailure reads the subject of a failure record's page back: the mirror name, the
// subject of the record's first page, and which page it is.
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

// upperHex are the digits of an encoded byte. fmt would take most of the time of a lookup at the
// budget, which each request makes several times.
const upperHex = "0123456789ABCDEF"

// encode makes one subject token of s, injectively: what is not a lower-case
// letter, a digit, - or _ becomes =XX; a token that gets too long ends in a
// hash, marked by =h, which no escape yields; and an empty one, which NATS
// does not take, is =e.
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
	sum := sha256.Sum256([]byte(s))
	tail := "=h" + hex.EncodeToString(sum[:16])
	return b.String()[:limit-len(tail)] + tail
}
