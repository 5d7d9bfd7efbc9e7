package redact

import (
	"os"
	"regexp"
	"strings"
)

var (
	// secretName matches the name of a variable, or of a parameter in a URL, whose value
	// is a secret.
	secretName = regexp.MustCompile(`(?i)(?:^|[_.-])(?:passw(?:or)?d|passphrase|pass|psw|secret|token|sig|signature|api_?key|(?:access|account|private)[_-]key)(?:$|[_.-])`)

	// otherName matches, of such names, those whose value is a path to a secret, not a secret.
	otherName = regexp.MustCompile(`(?i)[_.-](?:file|path|dir|ur[li]|endpoint|host|port|name|user|id|type|store|policy)$`)

	// pinned is an image by its digest, which is not user information.
	pinned = regexp.MustCompile(`@sha\d+:`)
)

// AddEnvironment adds the secrets in variables, as os.Environ returns them: the passwords in proxies
// and other URLs, and values that are secrets by the name of their variable.
func AddEnvironment(variables []string) {
	for _, variable := range variables {
		name, value, _ := strings.Cut(variable, "=")
		if secretName.MatchString(name) && !otherName.MatchString(name) && !isFile(value) && len(value) >= wordLength {
			Add(value)
		}
		if !strings.Contains(value, "://") && !strings.Contains(value, "@") || pinned.MatchString(value) {
			continue
		}
		for _, part := range append(strings.Split(value, ","), value) { // NATS_URL may be several
			addURL(strings.TrimSpace(part))
		}
	}
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
