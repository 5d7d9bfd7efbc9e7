package outcome_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/stretchr/testify/require"
)

const (
	source, destination = "osism/tool", "mirror/osism/tool"
	missing             = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

	from = "initializing source docker://SRC/osism/tool@DIGEST: "
	read = from + "reading manifest DIGEST in SRC/osism/tool: "
	put  = "writing manifest: uploading manifest DIGEST to DST/mirror/osism/tool: "
)

var (
	blob  = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	ports = regexp.MustCompile(`127\.0\.0\.1:\d+->`)
)

func body(code, message string) string {
	return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

const page = "<html><head><title>429 Too Many Requests</title></head><body>429</body></html>"

// wordsOf is the version of skopeo whose exact messages TestCopies expects. For other
// versions, it expects only the class.
const wordsOf = "1.9.3"

// TestCopies makes the real skopeo fail.
func TestCopies(t *testing.T) {
	version, err := new(skopeo.Runner).Version(t.Context())
	require.NoError(t, err)
	get, layer := registrytest.Kinds(registrytest.KindManifestGet), registrytest.Kinds(registrytest.KindBlobGet)
	manifestPut := registrytest.Kinds(registrytest.KindManifestPut)
	ping := registrytest.Kinds(registrytest.KindPing)
	for _, test := range []struct {
		name   string
		src    registrytest.Fault
		dst    registrytest.Fault
		digest string
		class  outcome.Class
		at     string // SRC or DST
		reason string
	}{
		{name: "missing manifest", digest: missing, class: outcome.Gone, at: "SRC",
			reason: read + "manifest unknown: manifest unknown"},
		{name: "404 without a word", src: registrytest.Fault{Match: get, Status: 404}, class: outcome.Gone, at: "SRC",
			reason: read + "StatusCode: 404,"},
		{name: "missing blob", src: registrytest.Fault{Match: layer, Status: 404, Body: body("BLOB_UNKNOWN", "blob unknown")},
			class: outcome.Final, at: "SRC",
			reason: "reading blob BLOB: Error fetching blob: invalid status code from registry 404 (Not Found)"},
		{name: "401", src: registrytest.Fault{Match: get, Status: 401, Body: body("UNAUTHORIZED", "access denied")},
			class: outcome.Final, at: "SRC", reason: read + "unauthorized: access denied"},
		{name: "403", src: registrytest.Fault{Match: get, Status: 403, Body: body("DENIED", "no")},
			class: outcome.Final, at: "SRC", reason: read + "denied: no"},
		{name: "403 page", src: registrytest.Fault{Match: get, Status: 403, Body: "<p>no</p>"},
			class: outcome.Final, at: "SRC", reason: read + "StatusCode: 403, <p>no</p>"},
		{name: "403 at the destination", dst: registrytest.Fault{Match: manifestPut, Status: 403, Body: body("DENIED", "no")},
			class: outcome.Final, at: "DST", reason: put + "denied: no"},
		{name: "500", src: registrytest.Fault{Match: get, Status: 500, Body: "unauthorized"}, class: outcome.Transient, at: "SRC",
			reason: read + "received unexpected HTTP status: 500 Internal Server Error"},
		{name: "503 of a layer", src: registrytest.Fault{Match: layer, Status: 503}, class: outcome.Transient, at: "SRC",
			reason: "reading blob BLOB: Error fetching blob: invalid status code from registry 503 (Service Unavailable)"},
		{name: "502 at the destination", dst: registrytest.Fault{Match: manifestPut, Status: 502}, class: outcome.Transient, at: "DST",
			reason: put + "received unexpected HTTP status: 502 Bad Gateway"},
		{name: "500 to the ping", src: registrytest.Fault{Match: ping, Status: 500}, class: outcome.Transient, at: "SRC",
			reason: from + "pinging container registry SRC: invalid status code from registry 500 (Internal Server Error)"},
		{name: "reset", src: registrytest.Fault{Match: layer, Reset: true}, class: outcome.Transient, at: "SRC",
			reason: `reading blob BLOB: Get "http://SRC/v2/osism/tool/blobs/BLOB": read tcp SRC: read: connection reset by peer`},
		{name: "cut", src: registrytest.Fault{Match: get, TruncateBody: true}, class: outcome.Transient, at: "SRC",
			reason: from + "unexpected EOF"},
		{name: "429 JSON", src: registrytest.Fault{Match: get, Status: 429, Body: body("TOOMANYREQUESTS", "slow down")},
			class: outcome.Limited, at: "SRC", reason: "too many requests to SRC"},
		{name: "429 HTML", src: registrytest.Fault{Match: layer, Status: 429, Body: page},
			class: outcome.Limited, at: "SRC", reason: "too many requests to SRC"},
		{name: "429 to the ping", dst: registrytest.Fault{Match: ping, Status: 429, Body: page},
			class: outcome.Limited, at: "DST", reason: "too many requests to DST"},
		{name: "429 JSON to a PUT", dst: registrytest.Fault{Match: manifestPut, Status: 429, Body: body("TOOMANYREQUESTS", "slow down")},
			class: outcome.Limited, at: "DST", reason: put + "toomanyrequests: slow down"},
		{name: "429 HTML to a PUT", dst: registrytest.Fault{Match: manifestPut, Status: 429, Body: page}, class: outcome.Limited, at: "DST",
			reason: put + "StatusCode: 429, <html><head><title>429 Too Many Requests</title></..."},
		{name: "lost blob at the destination", dst: registrytest.Fault{Match: manifestPut, Status: 404,
			Body: body("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")}, class: outcome.Transient, at: "DST",
			reason: put + "manifest blob unknown"},
		{name: "refused manifest", dst: registrytest.Fault{Match: manifestPut, Status: 400, Body: body("MANIFEST_INVALID", "bad")},
			class: outcome.Final, at: "DST", reason: put + "manifest invalid: bad"},
		{name: "other manifest", src: registrytest.Fault{Match: get, Status: 200, Body: "{}"}, class: outcome.Final, at: "SRC",
			reason: "determining manifest MIME type for docker://SRC/osism/tool@DIGEST: " +
				"Manifest does not match provided manifest digest DIGEST"},
		{name: "other layer", src: registrytest.Fault{Match: layer, Status: 200, Body: "{}"}, class: outcome.Transient, at: "SRC",
			reason: "reading blob BLOB: Digest did not match, expected BLOB, got BLOB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src, dst := registrytest.New(t), registrytest.New(t)
			digest, err := src.PushImage(source, "1", registrytest.Image{})
			require.NoError(t, err)
			if test.digest != "" {
				digest = test.digest
			}
			if test.src.Match != nil {
				src.Inject(test.src)
			}
			if test.dst.Match != nil {
				dst.Inject(test.dst)
			}
			r := &skopeo.Runner{Insecure: []string{src.Host(), dst.Host()}}
			err = r.CopyManifest(t.Context(), reference.MustRepository(src.Host()+"/"+source), reference.MustDigest(digest), reference.MustRepository(dst.Host()+"/"+destination))
			neutral := strings.NewReplacer(src.Host(), "SRC", dst.Host(), "DST", digest, "DIGEST")
			reason := ports.ReplaceAllString(outcome.Reason(err), "")
			if version == wordsOf {
				require.Equal(t, test.reason, blob.ReplaceAllString(neutral.Replace(reason), "BLOB"))
			}
			require.Equal(t, test.class.String(), outcome.Classify(err).String())
			var failed *skopeo.Error
			require.ErrorAs(t, err, &failed)
			require.Equal(t, test.at, neutral.Replace(failed.Registry))
		})
	}
}

// TestSettings: errors that come from settings name the setting.
func TestSettings(t *testing.T) {
	t.Setenv("REGISTRY_AUTH_FILE", "")
	plain, to := registrytest.New(t), registrytest.New(t)
	encrypted := registrytest.New(t, registrytest.WithTLS())
	private := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2"}))
	stopped := registrytest.New(t)
	stopped.Stop()
	insecure := []string{to.Host(), private.Host(), stopped.Host()}
	for name, test := range map[string]struct {
		host   string
		runner *skopeo.Runner
		class  outcome.Class
		reason string // its end
	}{
		"plain HTTP": {plain.Host(), &skopeo.Runner{}, outcome.Final, ": http: server gave HTTP response to HTTPS client; add " +
			plain.Host() + " to INSECURE_REGISTRIES to allow plain HTTP"},
		"unknown CA": {encrypted.Host(), &skopeo.Runner{}, outcome.Final, "; name its CA in SSL_CERT_FILE, or add " +
			encrypted.Host() + " to INSECURE_REGISTRIES"},
		"no credentials": {private.Host(), &skopeo.Runner{}, outcome.Final,
			"invalid username/password: unauthorized: incorrect username or password"},
		"refused":   {stopped.Host(), &skopeo.Runner{}, outcome.Transient, "connect: connection refused"},
		"no name":   {"registry.invalid", &skopeo.Runner{}, outcome.Transient, "no such host"},
		"no skopeo": {plain.Host(), &skopeo.Runner{Path: "/no/such"}, outcome.Transient, "install skopeo 1.9.3 or newer, set SKOPEO_PATH, or copy without it: COPY_ENGINE=builtin"},
	} {
		t.Run(name, func(t *testing.T) {
			test.runner.Insecure = insecure
			err := test.runner.CopyManifest(t.Context(), reference.MustRepository(test.host+"/"+source), reference.MustDigest(missing), reference.MustRepository(to.Host()+"/"+destination))
			require.Regexp(t, regexp.QuoteMeta(test.reason)+"$", outcome.Reason(err))
			require.Equal(t, test.class.String(), outcome.Classify(err).String())
		})
	}
}

func TestTimeoutAndCancel(t *testing.T) {
	src, dst := registrytest.New(t), registrytest.New(t)
	src.Inject(registrytest.Fault{Hang: true})
	r := &skopeo.Runner{Insecure: []string{src.Host(), dst.Host()}, Timeout: 200 * time.Millisecond}
	err := r.CopyManifest(t.Context(), reference.MustRepository(src.Host()+"/"+source), reference.MustDigest(missing), reference.MustRepository(dst.Host()+"/"+destination))
	require.Equal(t, outcome.Transient, outcome.Classify(err))
	require.Equal(t, "the copy took longer than COPY_TIMEOUT (200ms)", outcome.Reason(err))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = r.CopyManifest(ctx, reference.MustRepository(src.Host()+"/"+source), reference.MustDigest(missing), reference.MustRepository(dst.Host()+"/"+destination))
	require.Equal(t, outcome.Interrupted, outcome.Classify(err))
	_, err = registry.NewClient(registry.Options{Insecure: r.Insecure}).Head(ctx, reference.MustRepository(src.Host()+"/"+source), reference.MustTag("1"))
	require.Equal(t, outcome.Interrupted, outcome.Classify(err))
}

func TestRequests(t *testing.T) {
	get := registrytest.Kinds(registrytest.KindManifestGet)
	for _, test := range []struct {
		name      string
		fault     registrytest.Fault
		reference reference.TagOrDigest
		class     outcome.Class
		wait      time.Duration
	}{
		{name: "no tag", reference: reference.MustTag("2"), class: outcome.Final},
		{name: "no digest", reference: reference.MustDigest(missing), class: outcome.Gone},
		{name: "401", fault: registrytest.Fault{Match: get, Status: 401}, class: outcome.Final},
		{name: "403", fault: registrytest.Fault{Match: get, Status: 403}, class: outcome.Final},
		{name: "400", fault: registrytest.Fault{Match: get, Status: 400}, class: outcome.Final},
		{name: "429", fault: registrytest.Fault{Match: get, Status: 429, Header: http.Header{"Retry-After": {"7"}}},
			class: outcome.Limited, wait: 7 * time.Second},
		{name: "429 HTML", fault: registrytest.Fault{Match: get, Status: 429, Body: page}, class: outcome.Limited},
		{name: "500", fault: registrytest.Fault{Match: get, Status: 500}, class: outcome.Transient},
		{name: "reset", fault: registrytest.Fault{Match: get, Reset: true}, class: outcome.Transient},
		{name: "a page", fault: registrytest.Fault{Match: get, Status: 200, Body: page}, class: outcome.Transient},
		{name: "nothing", fault: registrytest.Fault{Match: get, Status: 200}, class: outcome.Transient},
		{name: "other content", fault: registrytest.Fault{Match: get, Status: 200, Body: "{}",
			Header: http.Header{"Docker-Content-Digest": {missing}}}, class: outcome.Final},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := registrytest.New(t)
			_, err := src.PushImage(source, "1", registrytest.Image{})
			require.NoError(t, err)
			if test.fault.Match != nil {
				src.Inject(test.fault)
			}
			if test.reference == nil {
				test.reference = reference.MustTag("1")
			}
			_, err = registry.NewClient(registry.Options{Insecure: []string{src.Host()}}).
				Get(t.Context(), reference.MustRepository(src.Host()+"/"+source), test.reference)
			require.Equal(t, test.class.String(), outcome.Classify(err).String(), "%v", err)
			require.Equal(t, test.wait, outcome.RetryAfter(err))
		})
	}
}

func TestOtherErrors(t *testing.T) {
	require.Equal(t, outcome.Transient, outcome.Classify(&skopeo.Error{ExitCode: 1,
		Reason: "initializing source docker://quay.io/a: Requesting bearer token: invalid status code from registry 404 (Not Found)"}))
	require.Equal(t, outcome.Transient, outcome.Classify(errors.New("no idea")))
	require.Equal(t, outcome.Transient, outcome.Classify(&skopeo.Error{ExitCode: 1, Reason: "some words of a later skopeo"}))
	require.Equal(t, outcome.Transient, outcome.Classify(&skopeo.Error{ExitCode: 1,
		Reason: "writing blob: write /var/tmp/x: no space left on device"}))
	require.Equal(t, outcome.Transient, outcome.Classify(&skopeo.Error{ExitCode: 1,
		Reason: "reading manifest sha256:404429 in quay.io/denied/unauthorized: EOF"}))
	for _, ended := range []string{
		"reading blob x: Error fetching blob: invalid status code from registry 400 (Bad Request)",
		"trying to reuse blob x at destination: failed to read from destination repository p/a/app: 400 (Bad Request)",
		"writing blob: failed to read from destination repository p/a/app: 400 (Bad Request)",
	} {
		require.Equal(t, outcome.Transient, outcome.Classify(&skopeo.Error{ExitCode: 1, Reason: ended}), ended)
	}
	require.Equal(t, outcome.Final, outcome.Classify(&skopeo.Error{ExitCode: 1,
		Reason: "writing manifest: uploading manifest x to quay.io/a: StatusCode: 400, no"}))
	require.Equal(t, outcome.Final, outcome.Classify(&skopeo.Error{ExitCode: 1,
		Reason: `copying image: Manifest list must be converted to type "x" to be written to destination, but we cannot modify it`}))
	require.Equal(t, outcome.Final, outcome.Classify(&skopeo.Error{ExitCode: 1,
		Reason: "Error loading trust policy: open /etc/containers/policy.json: permission denied"}))
	require.Equal(t, "x: Get https://quay.io/v2/: EOF", outcome.Reason(fmt.Errorf("x:\n%w", errors.New("Get https://a:b@quay.io/v2/: EOF"))))

	path := filepath.Join(t.TempDir(), "auth.json")
	require.NoError(t, os.WriteFile(path, []byte("hunter2"), 0o600))
	t.Setenv("REGISTRY_AUTH_FILE", path)
	_, err := registry.NewClient(registry.Options{Keychain: containers.New(cloud.New())}).Head(t.Context(), reference.MustRepository("registry.invalid/a/b"), reference.MustTag("1"))
	require.Equal(t, outcome.Transient, outcome.Classify(err), "another process may be writing it")
	require.Equal(t, "look up registry.invalid/a/b:1: credentials: credentials file "+path+": not valid JSON at byte 1", outcome.Reason(err))
}
