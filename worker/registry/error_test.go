package registry_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

func TestErrors(t *testing.T) {
	const missing = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	const emptyObject = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // of {}
	html := "<html><head><title>429 Too Many Requests</title></head><body><h1>429</h1></body></html>"
	body := func(code, message string) string {
		answer, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
		require.NoError(t, err)
		return string(answer)
	}
	for _, test := range []struct {
		name  string
		fault registrytest.Fault
		ref   reference.TagOrDigest
		is    error
		text  string // REPO stands for host and repository
		wait  time.Duration
	}{
		{name: "no such tag", ref: reference.MustTag("2"), is: registry.ErrNotFound, text: "get REPO:2: not found: manifest unknown (404)"},
		{name: "no such digest", ref: reference.MustDigest(missing), is: registry.ErrNotFound,
			text: "get REPO@" + missing + ": not found: manifest unknown (404)"},
		{name: "401", fault: registrytest.Fault{Status: 401, Body: body("UNAUTHORIZED", "access denied")}, is: registry.ErrUnauthorized,
			text: "get REPO:1: unauthorized: access denied; no credentials were found, or the repository does not exist (401)"},
		{name: "403", fault: registrytest.Fault{Status: 403, Body: body("DENIED", "")}, is: registry.ErrDenied,
			text: "get REPO:1: denied (403)"},
		{name: "429 JSON", fault: registrytest.Fault{Status: 429, Header: http.Header{"Retry-After": {"17"}},
			Body: body("TOOMANYREQUESTS", "You have reached your pull rate limit.")}, is: registry.ErrLimited,
			text: "get REPO:1: too many requests: You have reached your pull rate limit. (429)", wait: 17 * time.Second},
		{name: "429 HTML", fault: registrytest.Fault{Status: 429, Body: html}, is: registry.ErrLimited,
			text: "get REPO:1: too many requests: 429 Too Many Requests (429)"},
		{name: "limited by another status", fault: registrytest.Fault{Status: 503, Body: body("TOOMANYREQUESTS", "slow down")},
			is: registry.ErrLimited, text: "get REPO:1: too many requests: slow down (503)"},
		{name: "500", fault: registrytest.Fault{Status: 500, Body: "oops https://s3.example/x?sig=abc"}, is: registry.ErrUnavailable,
			text: "get REPO:1: unavailable: oops https://s3.example/x?xxxxx (500)"},
		{name: "400", fault: registrytest.Fault{Status: 400}, is: registry.ErrRejected, text: "get REPO:1: rejected (400)"},
		{name: "reset", fault: registrytest.Fault{Reset: true}, is: registry.ErrUnavailable},
		{name: "cut", fault: registrytest.Fault{TruncateBody: true}, is: registry.ErrUnavailable,
			text: "get REPO:1: unavailable: unexpected EOF"},
		{name: "other content", fault: registrytest.Fault{Status: 200, Body: "{}",
			Header: http.Header{"Docker-Content-Digest": {missing}}}, is: registry.ErrDigestMismatch},
		{name: "no manifest", fault: registrytest.Fault{Status: 200, Body: "{}", Header: http.Header{"Docker-Content-Digest": {emptyObject}}},
			is: registry.ErrBadManifest, text: "get REPO:1: bad manifest: neither an image nor an index"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			pushImage(t, r, "1")
			if test.ref == nil {
				test.ref = reference.MustTag("1")
				test.fault.Match = registrytest.Kinds(registrytest.KindManifestGet)
				r.Inject(test.fault)
			}
			_, err := insecure(r, nil).Get(t.Context(), reference.MustRepository(r.Host()+"/"+repository), test.ref)
			require.ErrorIs(t, err, test.is)
			if test.text != "" {
				require.EqualError(t, err, strings.ReplaceAll(test.text, "REPO", r.Host()+"/"+repository))
			}
			var named *registry.Error
			require.ErrorAs(t, err, &named)
			require.Equal(t, test.wait, named.RetryAfter)
			if !test.fault.Reset { // because net/http itself retries when a kept connection dies before the answer
				require.Equal(t, 1, r.Pulls(), "no hidden retries")
			}
		})
	}
}
