package redact

import (
	"net/url"
	"os"
	"regexp"
	"strings"
)

var (
	// secretName matches names of variables, and of parameters in URLs, whose values are secrets.
	secretName = regexp.MustCompile(`(?i)(?:^|[_.-])(?:passw(?:or)?d|passphrase|pass|psw|secret|token|sig|signature|api_?key|(?:access|account|private)[_-]key)(?:$|[_.-])`)

	// otherName matches those of these names whose values are not secrets, but paths to them, for
	// example.
	otherName = regexp.MustCompile(`(?i)[_.-](?:file|path|dir|ur[li]|endpoint|host|port|name|user|id|type|store|policy)$`)

	// pinned matches the digest of an image, whose @ does not follow user information.
	pinned = regexp.MustCompile(`@sha\d+:`)
)

// AddEnvironment adds the secrets in variables, as os.Environ returns them: passwords in URLs, such as
// those of proxies, and values of variables whose names show that they are secrets.
func AddEnvironment(variables []string) {
	for _, variable := range variables {
		name, value, _ := strings.Cut(variable, "=")
		if secretName.MatchString(name) && !otherName.MatchString(name) && !isFile(value) && len(value) >= wordLength {
			Add(value)
		}
		if !strings.Contains(value, "://") && !strings.Contains(value, "@") || pinned.MatchString(value) {
			continue
		}
		for _, part := range append(strings.Split(value, ","), value) { // NATS_URL may have several URLs
			addURL(strings.TrimSpace(part))
		}
	}
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// bareUserinfo matches user:password@ without a scheme before it.
var bareUserinfo = regexp.MustCompile(`^[^/@]+:[^@]*@`)

// secretParameter is secretName for parameters of URLs, where a key is a secret and not a file.
var secretParameter = regexp.MustCompile(secretName.String() + `|(?i)(?:^|[_-])(?:key|auth|code)$`)

// URL returns a URL or a path without its secrets: without user information, and without its query.
func URL(text string) string {
	scheme, _, isURL := strings.Cut(text, "://")
	if !isURL {
		return bareUserinfo.ReplaceAllString(text, mask+"@")
	}
	u, err := url.Parse(text)
	if err != nil {
		// Without a valid URL, the end of the password is not known.
		return scheme + "://" + mask
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	if u.RawQuery != "" {
		u.RawQuery = mask
	}
	return u.String()
}

// addURL adds the secrets in a URL: its user information, and the values of its query that are secrets
// by their name or look like tokens.
func addURL(text string) {
	if !strings.Contains(text, "://") {
		text = "none://" + text // user:password@host
	}
	u, err := url.Parse(text)
	if err != nil {
		addUnparsed(text)
		return
	}
	if password, with := u.User.Password(); with {
		AddLogin(u.User.Username(), password)
	}
	if user := u.User.Username(); u.User != nil && looksSecret(user) {
		Add(user) // GitHub allows a token as user
	}
	for name, values := range u.Query() {
		for _, value := range values {
			if secretParameter.MatchString(name) || looksSecret(value) {
				Add(value)
			}
		}
	}
}

// addUnparsed adds the user information of an invalid URL, such as one with a password that is not
// escaped.
func addUnparsed(text string) {
	_, rest, _ := strings.Cut(text, "://")
	end := strings.LastIndexByte(rest, '@')
	if end < 0 {
		return
	}
	user, password, _ := strings.Cut(rest[:end], ":")
	AddLogin(user, password)
}

// looksSecret reports whether a text is a token rather than a name.
func looksSecret(value string) bool { return len(value) >= 16 && looksRandom(value) }
