package redact

import (
	"net/url"
	"regexp"
	"strings"
)

// bareUserinfo matches user:password@ without a scheme before it.
var bareUserinfo = regexp.MustCompile(`^[^/@]+:[^@]*@`)

// secretParameter is secretName for URLs: a key in a URL is not a file.
var secretParameter = regexp.MustCompile(secretName.String() + `|(?i)(?:^|[_-])(?:key|auth|code)$`)

// URL returns a URL, or a path, as it may be shown: without user information and
// without the values of its query.
func URL(text string) string {
	scheme, _, isURL := strings.Cut(text, "://")
	if !isURL {
		return bareUserinfo.ReplaceAllString(text, mask+"@")
	}
	u, err := url.Parse(text)
	if err != nil {
		// The end of the password cannot be known.
		return scheme + "://" + mask
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	if u.RawQuery != "" {
		u.RawQuery = mask
	}
	return u.String()
}

// addURL adds the secrets in a URL: its user information, and those values
// of its query that are secret by their name or look like it.
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
		Add(user) // GitHub wants tokens there
	}
	for name, values := range u.Query() {
		for _, value := range values {
			if secretParameter.MatchString(name) || looksSecret(value) {
				Add(value)
			}
		}
	}
}

// addUnparsed adds the user information of a text that should be a URL but is not valid: a
// password with a character that should have been escaped.
func addUnparsed(text string) {
	_, rest, _ := strings.Cut(text, "://")
	end := strings.LastIndexByte(rest, '@')
	if end < 0 {
		return
	}
	user, password, _ := strings.Cut(rest[:end], ":")
	AddLogin(user, password)
}

// looksSecret reports whether a text is a token, and no name that people choose.
func looksSecret(value string) bool { return len(value) >= 16 && looksRandom(value) }
