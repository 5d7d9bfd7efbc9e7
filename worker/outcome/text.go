package outcome

import (
	"regexp"

	"github.com/osism/skopeo-worker/worker/skopeo"
)

// rule gives messages of skopeo a class. Patterns match its own words and those
// of registries where they stand in a message, after ": ", so that neither a
// repository's name nor a digest looks like one of them. Status codes come in
// four forms: "StatusCode: 404, …", "HTTP status: 404 Not Found", "status code from
// registry 404 (Not Found)" and "from destination repository NAME: 404 (Not Found)".
type rule struct {
	pattern *regexp.Regexp
	class   Class
}

const status = `(?:StatusCode: |HTTP status: |invalid status code from registry |from destination repository \S+: )`

// noRegistry is what GET /v2/ is answered with by what is in front of a registry that is
// away.
const noRegistry = `pinging container registry \S+: invalid status code`

// said is where the words of a registry begin.
const said = `(?:^|: |/blobs/uploads/\S+ )`

var (
	// plainHTTP is a registry without TLS, as Go's client and its TLS see it.
	plainHTTP = regexp.MustCompile(`server gave HTTP response to HTTPS client|first record does not look like a TLS handshake`)

	// untrusted is a certificate that cannot be verified.
	untrusted = regexp.MustCompile(`x509: `)
)

// rules are tried in order; the first that matches counts.
var rules = []rule{
	// A limit first: it comes with any status, and around other words.
	{regexp.MustCompile(`(?i)toomanyrequests|too many requests|` + status + `429`), Limited},

	// The registry is ill, whatever else the page says, or none at all.
	{regexp.MustCompile(status + `(?:5\d\d|408)|` + noRegistry), Transient},

	// A token server that is not there says nothing about the image.
	{regexp.MustCompile(`(?i)requesting bearer token: ` + status + `4(?:04|05|10)`), Transient},

	// This worker's disk is full: another worker, or this one later, can do it.
	{regexp.MustCompile(`no space left on device`), Transient},

	// The destination forgot a blob between the question and the manifest:
	// garbage collection, or a replica that lags. Uploading again helps.
	{regexp.MustCompile(`(?i)^(?:writing|uploading) manifest\b.*\bblob unknown`), Transient},

	// The source no longer has a manifest that we name by its digest.
	{regexp.MustCompile(`(?i)reading manifest \S+ in \S+: (?:.*: )?(?:manifest unknown|name unknown|` + status + `404)`), Gone},

	// The registry knows no such thing: a layer lost at the source, a project
	// that does not exist at the destination.
	{regexp.MustCompile(`(?i)(?:^|: )(?:manifest|name|repository name|blob) unknown|` + status + `404`), Final},

	// Who we are, or what we may do.
	{regexp.MustCompile(`(?i)` + said + `(?:unauthorized|denied|authentication required|invalid username/password)\b|` +
		status + `40[13]`), Final},

	// Some registries answer so to a session or to credentials that have ended, and only
	// a manifest that is put can be a bad request by itself.
	{regexp.MustCompile(`(?i)^(?:reading|trying to reuse|checking|writing blob|initializing)\b.*` + status + `400`), Transient},

	// A layer is not what its digest says: mostly a page came instead.
	{regexp.MustCompile(`(?i)digest did not match`), Transient},

	// Nor is the manifest, or what the destination got.
	{regexp.MustCompile(`(?i)does not match provided manifest digest|digest invalid`), Final},

	// A manifest that the destination refuses, that skopeo cannot read, or
	// could only copy by changing it.
	{regexp.MustCompile(`(?i)` + said + `(?:(?:manifest|tag|name|size) invalid|unsupported\b)|unsupported (?:MIME|manifest|schema|media)|` +
		`must be converted to type|invalid reference format|` + status + `4\d\d`), Final},

	// A containers-policy.json(5) that refuses the image, or that cannot be read.
	{regexp.MustCompile(`Source image rejected|loading trust policy`), Final},

	// Settings.
	{plainHTTP, Final},
	{untrusted, Final},
}

func classifyText(text string) Class {
	for _, rule := range rules {
		if rule.pattern.MatchString(text) {
			return rule.class
		}
	}
	return Transient
}

// hint names the setting that would have helped.
func hint(copied *skopeo.Error) string {
	switch {
	case plainHTTP.MatchString(copied.Reason):
		return "; add " + copied.Registry + " to INSECURE_REGISTRIES to allow plain HTTP"
	case untrusted.MatchString(copied.Reason):
		return "; name its CA in SSL_CERT_FILE, or add " + copied.Registry + " to INSECURE_REGISTRIES"
	}
	return ""
}
