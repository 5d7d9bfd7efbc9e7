package outcome

import (
	"crypto/x509"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Suspicion is that a failure may not be about the image, but about its registry:
// others would fail alike. One failure alone does not tell.
type Suspicion struct {
	Registry    string // docker.io for all hosts of Docker Hub
	Destination bool   // skopeo failed there; of requests of our own, who asks knows
	Why         Why
	// Blind is that the destination did not know yet what comes: that cannot be what is
	// wrong. Of requests of our own, who asks knows.
	Blind bool
}

// Why a registry fails.
type Why int

const (
	// Trouble is a registry that does not answer as one: no connection, 5xx, a page
	// for people.
	Trouble Why = iota
	// ReadOnly is a registry that takes nothing for now.
	ReadOnly
	// Full is a registry without space, or a quota that is used up.
	Full
	// Unauthorized is that a registry wants other credentials.
	Unauthorized
	// Denied is what we may not do, whoever we are.
	Denied
)

func (w Why) String() string {
	return [...]string{"trouble", "read-only", "full", "unauthorized", "denied"}[w]
}

// Suspect returns what a failure of the packages registry and skopeo may say of a
// registry, and false where it can only be about the image, or about us.
func Suspect(err error) (Suspicion, bool) {
	if Classify(err) == Limited || Classify(err) == Interrupted {
		return Suspicion{}, false
	}
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		why, ok := suspectAnswer(asked)
		return Suspicion{Registry: asked.Repository.Registry(), Why: why}, ok
	}
	if copied := (*skopeo.Error)(nil); errors.As(err, &copied) && copied.Side != skopeo.Neither {
		destination := copied.Side == skopeo.Destination
		why, ok := suspectCopy(copied.Reason, destination)
		return Suspicion{
			Registry: reference.RegistryOf(copied.Registry), Destination: destination, Why: why,
			Blind: destination && strings.Contains(copied.Reason, "initiating layer upload"),
		}, ok
	}
	return Suspicion{}, false
}

// Missing reports whether a failure is that something is not there. What is in front of
// a registry that is away says so of everything.
func Missing(err error) bool {
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		return errors.Is(asked, registry.ErrNotFound)
	}
	copied := (*skopeo.Error)(nil)
	return errors.As(err, &copied) && missing.MatchString(copied.Reason)
}

var missing = regexp.MustCompile(`(?i)` + said + `(?:manifest|name|repository name|blob) unknown|` + status + `404`)

// Untrusted reports whether a failure is that of a registry which does not speak TLS, or
// has a certificate that cannot be verified.
func Untrusted(err error) bool {
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		return errors.Is(asked, registry.ErrCertificate) || errors.Is(asked, registry.ErrPlainHTTP)
	}
	copied := (*skopeo.Error)(nil)
	return errors.As(err, &copied) && (plainHTTP.MatchString(copied.Reason) || untrusted.MatchString(copied.Reason))
}

func suspectAnswer(asked *registry.Error) (Why, bool) {
	text := asked.Err.Error()
	switch {
	case asked.Status == http.StatusInsufficientStorage, asked.Status >= http.StatusBadRequest && fullWords.MatchString(text):
		return Full, true
	case asked.Status >= http.StatusBadRequest && readOnlyWords.MatchString(text), asked.Op == registry.OpPut && asked.Status == http.StatusMethodNotAllowed:
		return ReadOnly, true
	case errors.Is(asked, registry.ErrUnavailable), errors.Is(asked, registry.ErrUnexpected), errors.Is(asked, registry.ErrPage):
		return Trouble, true
	case errors.Is(asked, registry.ErrCertificate):
		expired := x509.CertificateInvalidError{}
		return Trouble, errors.As(asked, &expired) && expired.Reason == x509.Expired
	case errors.Is(asked, registry.ErrUnauthorized):
		return Unauthorized, true
	case errors.Is(asked, registry.ErrDenied), asked.Status == http.StatusRequestEntityTooLarge:
		return Denied, !immutableWords.MatchString(text)
	}
	return 0, false
}

// Words of registries, as the messages of their errors have them.
var (
	fullWords = regexp.MustCompile(`(?i)\bquota\b|\binsufficient storage\b|\bno space left\b|` +
		`\b(?:storage|disk|capacity)\b.*\b(?:exceed|full|limit)|\bexceed.*\b(?:storage|capacity|upper limit)`)
	readOnlyWords  = regexp.MustCompile(`(?i)\bread[- ]?only\b|\bmaintenance\b`)
	immutableWords = regexp.MustCompile(`(?i)immutab|already exists|overwrit`)
)

// names are what skopeo's messages name: repositories, URLs, files.
var names = regexp.MustCompile(`repository \S+:|\S*/\S*`)

// suspicions of skopeo's messages are tried in order; the first that matches counts.
var suspicions = []struct {
	words   *regexp.Regexp // of the message without its names
	pattern *regexp.Regexp
	at      skopeo.Side // Neither: at both
	suspect bool
	why     Why
}{
	{words: regexp.MustCompile(`(?i)no space left on device`)}, // on this machine
	{words: immutableWords},
	{words: fullWords, pattern: regexp.MustCompile(status + `507`), suspect: true, why: Full},
	// Every other layer would be refused alike.
	{words: readOnlyWords, pattern: regexp.MustCompile(`(?i)^writing blob: .*(?:` + said + `unsupported\b|` + status + `405)`),
		at: skopeo.Destination, suspect: true, why: ReadOnly},
	{pattern: regexp.MustCompile(noRegistry + `|` + status + `(?:5\d\d|408|20[04] )|certificate has expired|stopped after \d+ redirects|` +
		// No answer, or half of one.
		`^stalled: |connection refused|connection reset|broken pipe|no such host|server misbehaving|network is unreachable|no route to host|` +
		`i/o timeout|TLS handshake timeout|Client\.Timeout|context deadline exceeded|unexpected EOF|: EOF$|GOAWAY|: tls: |` +
		`server closed idle connection|use of closed network connection|` +
		// A page for people has another digest.
		`(?i:does not match provided manifest digest|digest did not match)`), suspect: true, why: Trouble},
	{pattern: regexp.MustCompile(`(?i)` + said + `(?:unauthorized|authentication required|invalid username/password)\b|` + status + `401`),
		suspect: true, why: Unauthorized},
	{pattern: regexp.MustCompile(`(?i)` + said + `denied\b|` + status + `4(?:03|13)`), suspect: true, why: Denied},
}

func suspectCopy(text string, destination bool) (Why, bool) {
	words := names.ReplaceAllString(text, "")
	for _, s := range suspicions {
		if s.at == skopeo.Destination && !destination {
			continue
		}
		if s.words != nil && s.words.MatchString(words) || s.pattern != nil && s.pattern.MatchString(text) {
			return s.why, s.suspect
		}
	}
	return 0, false
}
