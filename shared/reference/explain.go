package reference

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	dist "github.com/distribution/reference"
)

// maxQuoted is how many bytes of an invalid text an error has.
const maxQuoted = 160

// maxTag is the length of the longest tag (OCI distribution specification, "Pulling
// manifests").
const maxTag = 128

// hexName matches a name that docker treats as an image ID.
var hexName = regexp.MustCompile(`^[a-f0-9]{64}$`)

// digestLike matches a digest that may be invalid, but not user information of a URL.
var digestLike = regexp.MustCompile(`^sha[0-9]*:[^@/]*$`)

const (
	whyUpperCase   = "repository names are lower case"
	expectedDigest = "expected sha256: and 64 or sha512: and 128 lower-case hex digits"
)

// whyTooLong states the limit for host and path together, which skopeo enforces (OCI
// distribution specification, "Pulling manifests").
var whyTooLong = fmt.Sprintf("host and repository name are longer than %d characters", dist.RepositoryNameTotalLengthMax)

// refuse returns why a text cannot be a reference, by its characters, or "".
func refuse(s string) string {
	if s == "" {
		return "it is empty"
	}
	for _, c := range s {
		switch {
		case unicode.IsSpace(c):
			return "it has white space in it"
		case c > unicode.MaxASCII || !unicode.IsPrint(c):
			return fmt.Sprintf("it has %q in it, which no reference may have", c)
		}
	}
	if scheme := schemeOf(s); scheme != "" {
		return "write host/path without " + scheme
	}
	if misplacedAt(s) {
		return "only a digest may follow an @, " + expectedDigest + "; credentials do not belong here"
	}
	return ""
}

// scheme matches the scheme of a URL (RFC 3986, section 3.1). None in use is longer.
var scheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]{0,15}://`)

func schemeOf(s string) string { return scheme.FindString(s) }

// explain returns why the library refused a reference without its host.
func explain(rest string, err error) string {
	name, digest, hasDigest := strings.Cut(rest, "@")
	path, tag, hasTag := strings.Cut(name, ":")
	if why := explainPath(path); why != "" {
		return why
	}
	switch {
	case errors.Is(err, dist.ErrNameTooLong):
		return whyTooLong
	case hasTag && tag == "":
		return "the tag after the colon is missing"
	case len(tag) > maxTag:
		return fmt.Sprintf("the tag is longer than %d characters", maxTag)
	case hasTag && !isTag(tag):
		return fmt.Sprintf("tag %s is invalid, %s", Quote(tag), ExpectedTag)
	case hasDigest:
		return fmt.Sprintf("digest %s is invalid, %s", Quote(digest), expectedDigest)
	}
	return err.Error()
}

func explainPath(path string) string {
	switch {
	case path == "":
		return "the repository name is missing"
	case strings.ToLower(path) != path:
		return whyUpperCase
	case hexName.MatchString(path):
		return "a name of 64 hex digits alone is an image id, expected host/path"
	}
	for component := range strings.SplitSeq(path, "/") {
		if component == "" {
			return "a slash with nothing before or after it"
		}
		// With a host, so that the library does not treat the component as one.
		if _, err := dist.WithName(DockerHub + "/" + component); errors.Is(err, dist.ErrReferenceInvalidFormat) {
			return Quote(component) + " is invalid in a repository name, expected lower-case letters and digits with single '.', '_', '__' or dashes between them"
		}
	}
	return ""
}

// misplacedAt reports whether a text has an @ that no digest follows. It may be that of credentials.
func misplacedAt(s string) bool {
	_, after, found := strings.Cut(s, "@")
	return found && !digestLike.MatchString(after)
}

// quote quotes an invalid text for an error, without credentials.
func quote(s string) string {
	if misplacedAt(s) {
		s = "xxxxx" + s[strings.LastIndex(s, "@"):]
	}
	return Quote(s)
}

// Quote quotes a text from outside: on one line, in ASCII, without control characters, and cut if it is
// long.
func Quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.QuoteToASCII(s[:maxQuoted]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
