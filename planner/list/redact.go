package list

import (
	"net/url"
	"regexp"
	"strings"
)

// stdin is the source that stands for standard input.
const stdin = "-"

// redacted stands where a secret was, as net/url has it.
const redacted = "xxxxx"

var (
	// userinfo matches user:password@ where no scheme comes before it.
	userinfo = regexp.MustCompile(`^[^/@]+:[^@]*@`)
	// urlSecrets matches in free text what may be secret in a URL.
	urlSecrets = regexp.MustCompile(`://[^\s"]*@|\?[^\s"]+`)
)

// Redact gives a source of a list as it may be printed: without user
// information and without the values of its query.
func Redact(source string) string {
	if source == stdin {
		return "standard input"
	}
	scheme, _, isURL := strings.Cut(source, "://")
	if !isURL {
		return userinfo.ReplaceAllString(source, redacted+"@")
	}
	u, err := url.Parse(source)
	if err != nil {
		// Where the password ends is anyone's guess.
		return scheme + "://" + redacted
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	if u.RawQuery != "" {
		u.RawQuery = redacted
	}
	return u.String()
}

// scrub is for errors of others, that may quote a URL.
func scrub(err error) string {
	return urlSecrets.ReplaceAllStringFunc(err.Error(), func(s string) string {
		if strings.HasPrefix(s, "?") {
			return "?" + redacted
		}
		return "://" + redacted + "@"
	})
}
