package outcome

import (
	"crypto/x509"
	"errors"
	"net/http"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Suspicion means that an error may be the fault of the registry rather than the image. A single
// error does not prove that. Suspect sets Destination and Blind only for errors of skopeo.
type Suspicion struct {
	Registry    string // docker.io for all hosts of Docker Hub
	Destination bool   // the destination has failed, not the source
	Why         Why
	Blind       bool // the destination failed before it knew which image is pushed
}

// Why is the reason why a registry fails.
type Why int

const (
	// Trouble means no connection, a 5xx answer or an HTML page.
	Trouble Why = iota
	// ReadOnly means that the registry accepts nothing for now.
	ReadOnly
	// Full means that the registry has no space, or a quota is exhausted.
	Full
	// Unauthorized means that the registry refuses the credentials.
	Unauthorized
	// Denied means that the credentials do not permit the operation.
	Denied
)

func (w Why) String() string {
	return [...]string{"trouble", "read-only", "full", "unauthorized", "denied"}[w]
}

// Suspect returns the suspicion that an error of the packages registry and skopeo raises about its
// registry. It returns false if the error can only be about the image or this process.
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

// Missing reports whether an error means that a manifest, blob or repository does not exist. A
// proxy whose registry is away may answer so to all requests.
func Missing(err error) bool {
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		return errors.Is(asked, registry.ErrNotFound)
	}
	copied := (*skopeo.Error)(nil)
	return errors.As(err, &copied) && missing().MatchString(copied.Reason)
}

var missing = lazily(`(?i)` + said + `(?:manifest|name|repository name|blob) unknown|` + status + `404`)

// Untrusted reports whether an error means that a registry does not speak TLS, or has a
// certificate that cannot be verified.
func Untrusted(err error) bool {
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		return errors.Is(asked, registry.ErrCertificate) || errors.Is(asked, registry.ErrPlainHTTP)
	}
	copied := (*skopeo.Error)(nil)
	return errors.As(err, &copied) && (plainHTTP().MatchString(copied.Reason) || untrusted().MatchString(copied.Reason))
}

func suspectAnswer(asked *registry.Error) (Why, bool) {
	text := asked.Err.Error()
	switch {
	case asked.Status == http.StatusInsufficientStorage, asked.Status >= http.StatusBadRequest && fullWords().MatchString(text):
		return Full, true
	case asked.Status >= http.StatusBadRequest && readOnlyWords().MatchString(text), asked.Op == registry.OpPut && asked.Status == http.StatusMethodNotAllowed:
		return ReadOnly, true
	case errors.Is(asked, registry.ErrUnavailable), errors.Is(asked, registry.ErrUnexpected), errors.Is(asked, registry.ErrPage):
		return Trouble, true
	case errors.Is(asked, registry.ErrCertificate):
		expired := x509.CertificateInvalidError{}
		return Trouble, errors.As(asked, &expired) && expired.Reason == x509.Expired
	case errors.Is(asked, registry.ErrUnauthorized):
		return Unauthorized, true
	case errors.Is(asked, registry.ErrDenied), asked.Status == http.StatusRequestEntityTooLarge:
		return Denied, !immutableWords().MatchString(text)
	}
	return 0, false
}

// Words in the error messages of registries.
var (
	fullWords = lazily(`(?i)\bquota\b|\binsufficient storage\b|\bno space left\b|` +
		`\b(?:storage|disk|capacity)\b.*\b(?:exceed|full|limit)|\bexceed.*\b(?:storage|capacity|upper limit)`)
	readOnlyWords  = lazily(`(?i)\bread[- ]?only\b|\bmaintenance\b`)
	immutableWords = lazily(`(?i)immutab|already exists|overwrit`)
)

// names matches repositories, URLs and files in skopeo's messages.
var names = lazily(`repository \S+:|\S*/\S*`)

// suspicions are compared with skopeo's messages in this order; the first match counts.
var suspicions = []struct {
	words   pattern     // for the message without names
	pattern pattern     // for the whole message
	at      skopeo.Side // Neither means both
	suspect bool
	why     Why
}{
	{words: lazily(`(?i)no space left on device`)}, // on this machine
	{words: immutableWords},
	{words: fullWords, pattern: lazily(status + `507`), suspect: true, why: Full},
	// The destination would refuse any other layer, too.
	{words: readOnlyWords, pattern: lazily(`(?i)^writing blob: .*(?:` + said + `unsupported\b|` + status + `405)`),
		at: skopeo.Destination, suspect: true, why: ReadOnly},
	{pattern: lazily(noRegistry + `|` + status + `(?:5\d\d|408|20[04] )|certificate has expired|stopped after \d+ redirects|` +
		// No answer, or an incomplete one.
		`^stalled: |connection refused|connection reset|broken pipe|no such host|server misbehaving|network is unreachable|no route to host|` +
		`i/o timeout|TLS handshake timeout|Client\.Timeout|context deadline exceeded|unexpected EOF|: EOF$|GOAWAY|: tls: |` +
		`server closed idle connection|use of closed network connection|` +
		// An HTML page has another digest.
		`(?i:does not match provided manifest digest|digest did not match)`), suspect: true, why: Trouble},
	{pattern: lazily(`(?i)` + said + `(?:unauthorized|authentication required|invalid username/password)\b|` + status + `401`),
		suspect: true, why: Unauthorized},
	{pattern: lazily(`(?i)` + said + `denied\b|` + status + `4(?:03|13)`), suspect: true, why: Denied},
}

func suspectCopy(text string, destination bool) (Why, bool) {
	words := names().ReplaceAllString(text, "")
	for _, s := range suspicions {
		if s.at == skopeo.Destination && !destination {
			continue
		}
		if s.words != nil && s.words().MatchString(words) || s.pattern != nil && s.pattern().MatchString(text) {
			return s.why, s.suspect
		}
	}
	return 0, false
}
