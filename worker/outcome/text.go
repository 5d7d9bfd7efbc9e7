package outcome

import (
	"regexp"
	"sync"

	"github.com/osism/skopeo-worker/worker/skopeo"
)

// pattern is a regular expression that is compiled when it is first used, because that takes time and
// most runs use none.
type pattern = func() *regexp.Regexp

func lazily(text string) pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// rule gives messages of skopeo a class. Patterns match the words of skopeo, and those of
// registries only after ": ", where skopeo quotes them. So the name of a repository matches none.
type rule struct {
	pattern pattern
	class   Class
}

// status matches the text before a status code. skopeo has four forms: "StatusCode: 404, …",
// "HTTP status: 404 Not Found", "invalid status code from registry 404 (Not Found)" and "from
// destination repository NAME: 404 (Not Found)".
const status = `(?:StatusCode: |HTTP status: |invalid status code from registry |from destination repository \S+: )`

// noRegistry matches the error after GET /v2/ when a proxy answers whose registry is away.
const noRegistry = `pinging container registry \S+: invalid status code`

// said matches the text before the words of a registry.
const said = `(?:^|: |/blobs/uploads/\S+ )`

var (
	// plainHTTP matches the errors of Go's HTTP client and TLS for a registry without TLS.
	plainHTTP = lazily(`server gave HTTP response to HTTPS client|first record does not look like a TLS handshake`)

	// untrusted matches the errors for a certificate that cannot be verified.
	untrusted = lazily(`x509: `)
)

// rules are tried in order; the first match counts.
var rules = []rule{
	// A limit may have any status and be among other words, so it comes first.
	{lazily(`(?i)toomanyrequests|too many requests|` + status + `429`), Limited},

	// The registry is in trouble or away.
	{lazily(status + `(?:5\d\d|408)|` + noRegistry), Transient},

	// The token server is missing, so the image is not to blame.
	{lazily(`(?i)requesting bearer token: ` + status + `4(?:04|05|10)`), Transient},

	// This worker's disk is full: another worker, or this one later, can copy the image.
	{lazily(`no space left on device`), Transient},

	// The destination has lost a blob before the manifest was put: garbage collection, or a
	// replica that lags. The next copy uploads it again.
	{lazily(`(?i)^(?:writing|uploading) manifest\b.*\bblob unknown`), Transient},

	// The source no longer has a manifest with this digest.
	{lazily(`(?i)reading manifest \S+ in \S+: (?:.*: )?(?:manifest unknown|name unknown|` + status + `404)`), Gone},

	// The source has lost a layer, or the destination has no such project.
	{lazily(`(?i)(?:^|: )(?:manifest|name|repository name|blob) unknown|` + status + `404`), Final},

	// Credentials or permissions.
	{lazily(`(?i)` + said + `(?:unauthorized|denied|authentication required|invalid username/password)\b|` +
		status + `40[13]`), Final},

	// Some registries answer 400 if an upload or credentials have expired. Only for a manifest
	// may 400 mean that the content is invalid.
	{lazily(`(?i)^(?:reading|trying to reuse|checking|writing blob|initializing)\b.*` + status + `400`), Transient},

	// A layer has another digest, usually because the answer is an HTML page.
	{lazily(`(?i)digest did not match`), Transient},

	// The source's manifest, or the content that the destination received, has another digest.
	{lazily(`(?i)does not match provided manifest digest|digest invalid`), Final},

	// The destination refuses the manifest, or skopeo cannot read it or copy it unchanged.
	{lazily(`(?i)` + said + `(?:(?:manifest|tag|name|size) invalid|unsupported\b)|unsupported (?:MIME|manifest|schema|media)|` +
		`must be converted to type|invalid reference format|` + status + `4\d\d`), Final},

	// containers-policy.json(5) rejects the image, or cannot be read.
	{lazily(`Source image rejected|loading trust policy`), Final},

	// Settings.
	{plainHTTP, Final},
	{untrusted, Final},
}

func classifyText(text string) Class {
	for _, rule := range rules {
		if rule.pattern().MatchString(text) {
			return rule.class
		}
	}
	return Transient
}

// hint returns the setting that solves the problem, or "".
func hint(copied *skopeo.Error) string {
	switch {
	case plainHTTP().MatchString(copied.Reason):
		return "; add " + copied.Registry + " to INSECURE_REGISTRIES to allow plain HTTP"
	case untrusted().MatchString(copied.Reason):
		return "; name its CA in SSL_CERT_FILE, or add " + copied.Registry + " to INSECURE_REGISTRIES"
	}
	return ""
}
