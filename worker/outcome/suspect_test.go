package outcome_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const (
	trouble = "trouble"
	locked  = "read-only"
	full    = "full"
	unknown = "unauthorized"
	refused = "denied"
	none    = ""
)

// suspicion describes what an error is suspected of, "" for nothing.
func suspicion(err error) (outcome.Suspicion, string) {
	s, ok := outcome.Suspect(err)
	if !ok {
		return s, none
	}
	return s, s.Why.String()
}

// The names of these repositories are words of registries, which must not confuse the match.
const trapped = "quota/read-only/denied"

// TestSuspectedCopies makes the real skopeo fail at both sides.
func TestSuspectedCopies(t *testing.T) {
	get, layer := registrytest.Kinds(registrytest.KindManifestGet), registrytest.Kinds(registrytest.KindBlobGet)
	upload := func(r registrytest.Request) bool { return r.Method == http.MethodPost || r.Method == http.MethodPatch }
	blob, manifest := registrytest.Kinds(registrytest.KindBlobUpload), registrytest.Kinds(registrytest.KindManifestPut)
	look := registrytest.Kinds(registrytest.KindBlobHead)
	html := http.Header{"Content-Type": {"text/html"}}
	for name, test := range map[string]struct {
		fault       registrytest.Fault
		destination bool
		want        string
	}{
		"source 503":                       {registrytest.Fault{Status: 503}, false, trouble},
		"source manifest 502":              {registrytest.Fault{Match: get, Status: 502, Body: page}, false, trouble},
		"source layer 500":                 {registrytest.Fault{Match: layer, Status: 500}, false, trouble},
		"source reset":                     {registrytest.Fault{Match: layer, Reset: true}, false, trouble},
		"source cut":                       {registrytest.Fault{Match: layer, TruncateBody: true}, false, trouble},
		"source manifest cut":              {registrytest.Fault{Match: get, TruncateBody: true}, false, trouble},
		"source 401":                       {registrytest.Fault{Match: get, Status: 401}, false, unknown},
		"source 403":                       {registrytest.Fault{Match: get, Status: 403, Body: body("DENIED", "no")}, false, refused},
		"source layer 403":                 {registrytest.Fault{Match: layer, Status: 403}, false, refused},
		"source 404":                       {registrytest.Fault{Match: get, Status: 404}, false, none},
		"source layer 404":                 {registrytest.Fault{Match: layer, Status: 404}, false, none},
		"source page":                      {registrytest.Fault{Match: get, Status: 200, Header: html, Body: page}, false, trouble},
		"source page for a layer":          {registrytest.Fault{Match: layer, Status: 200, Header: html, Body: page}, false, trouble},
		"source 429":                       {registrytest.Fault{Match: get, Status: 429}, false, none},
		"source silent":                    {registrytest.Fault{Match: get, Hang: true}, false, trouble},
		"destination silent":               {registrytest.Fault{Match: look, Hang: true}, true, trouble},
		"destination 503":                  {registrytest.Fault{Status: 503}, true, trouble},
		"source without a backend":         {registrytest.Fault{Status: 404, Body: "404 page not found"}, false, trouble},
		"destination without a backend":    {registrytest.Fault{Status: 404, Body: "404 page not found"}, true, trouble},
		"destination looks 503":            {registrytest.Fault{Match: look, Status: 503}, true, trouble},
		"destination reset":                {registrytest.Fault{Match: upload, Reset: true}, true, trouble},
		"destination page":                 {registrytest.Fault{Match: upload, Status: 200, Header: html, Body: page}, true, trouble},
		"destination blob 500":             {registrytest.Fault{Match: blob, Status: 500}, true, trouble},
		"destination manifest 502":         {registrytest.Fault{Match: manifest, Status: 502}, true, trouble},
		"read-only 405":                    {registrytest.Fault{Match: upload, Status: 405, Body: body("UNSUPPORTED", "The operation is unsupported.")}, true, locked},
		"read-only 405 page":               {registrytest.Fault{Match: upload, Status: 405, Body: "<title>405 Not Allowed</title>"}, true, locked},
		"read-only 403":                    {registrytest.Fault{Match: upload, Status: 403, Body: body("DENIED", "the system is in read only mode")}, true, locked},
		"maintenance":                      {registrytest.Fault{Match: blob, Status: 403, Body: body("DENIED", "down for maintenance")}, true, locked},
		"507":                              {registrytest.Fault{Match: blob, Status: 507}, true, full},
		"manifest 507":                     {registrytest.Fault{Match: manifest, Status: 507}, true, full},
		"quota":                            {registrytest.Fault{Match: upload, Status: 403, Body: body("DENIED", "Quota has been exceeded on namespace")}, true, full},
		"quota 413":                        {registrytest.Fault{Match: blob, Status: 413, Body: body("DENIED", "quota exceeded")}, true, full},
		"Harbor's quota":                   {registrytest.Fault{Match: manifest, Status: 403, Body: body("DENIED", "adding 10.0 MiB of storage resource, which when updated to current usage of 95.0 MiB will exceed the configured upper limit of 100.0 MiB.")}, true, full},
		"too large":                        {registrytest.Fault{Match: blob, Status: 413, Body: "<title>413 Request Entity Too Large</title>"}, true, refused},
		"push 401":                         {registrytest.Fault{Match: upload, Status: 401}, true, unknown},
		"push 403":                         {registrytest.Fault{Match: blob, Status: 403, Body: body("DENIED", "no")}, true, refused},
		"immutable":                        {registrytest.Fault{Match: manifest, Status: 403, Body: body("DENIED", "tag is immutable")}, true, none},
		"bad manifest":                     {registrytest.Fault{Match: manifest, Status: 400, Body: body("MANIFEST_INVALID", "bad")}, true, none},
		"unsupported manifest":             {registrytest.Fault{Match: manifest, Status: 400, Body: body("UNSUPPORTED", "media type")}, true, none},
		"destination without a repository": {registrytest.Fault{Match: upload, Status: 404, Body: body("NAME_UNKNOWN", "no")}, true, none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := registrytest.New(t), registrytest.New(t)
			digest, err := src.PushImage(trapped, "1", registrytest.Image{Layers: []registrytest.Layer{{Seed: name, Size: 1 << 20}}})
			require.NoError(t, err)
			faulty := src
			if test.destination {
				faulty = dst
			}
			faulty.Inject(test.fault)
			r := &skopeo.Runner{Insecure: []string{src.Host(), dst.Host()}, Stall: 4 * time.Second}
			err = r.CopyManifest(t.Context(), reference.MustRepository(src.Host()+"/"+trapped), reference.MustDigest(digest), reference.MustRepository(dst.Host()+"/"+trapped))
			require.Error(t, err)
			found, why := suspicion(err)
			require.Equal(t, test.want, why, err)
			if why != none {
				require.Equal(t, faulty.Host(), found.Registry, err)
				require.Equal(t, test.destination, found.Destination, err)
				require.Equal(t, strings.Contains(err.Error(), "initiating layer upload"), found.Blind, err)
			}
		})
	}
}

// TestSuspectedRequests: errors of the worker's own requests.
func TestSuspectedRequests(t *testing.T) {
	html := http.Header{"Content-Type": {"text/html"}}
	for name, test := range map[string]struct {
		fault registrytest.Fault
		stop  bool
		get   string // if it differs from that of a PUT
		put   string
	}{
		"refused":       {stop: true, get: trouble, put: trouble},
		"503":           {fault: registrytest.Fault{Status: 503}, get: trouble, put: trouble},
		"reset":         {fault: registrytest.Fault{Reset: true}, get: trouble, put: trouble},
		"a page":        {fault: registrytest.Fault{Status: 200, Header: html, Body: page}, get: trouble, put: trouble},
		"507":           {fault: registrytest.Fault{Status: 507}, get: full, put: full},
		"quota":         {fault: registrytest.Fault{Status: 403, Body: body("DENIED", "quota exceeded")}, get: full, put: full},
		"read-only":     {fault: registrytest.Fault{Status: 405}, get: none, put: locked},
		"maintenance":   {fault: registrytest.Fault{Status: 403, Body: body("DENIED", "read-only")}, get: locked, put: locked},
		"500 read-only": {fault: registrytest.Fault{Status: 500, Body: body("UNKNOWN", "read-only file system")}, get: locked, put: locked},
		"500 full":      {fault: registrytest.Fault{Status: 500, Body: body("UNKNOWN", "no space left on device")}, get: full, put: full},
		"401":           {fault: registrytest.Fault{Status: 401}, get: unknown, put: unknown},
		"403":           {fault: registrytest.Fault{Status: 403}, get: refused, put: refused},
		"404":           {fault: registrytest.Fault{Status: 404}, get: none, put: none},
		"409":           {fault: registrytest.Fault{Status: 409}, get: none, put: none},
		"429":           {fault: registrytest.Fault{Status: 429}, get: none, put: none},
		"immutable":     {fault: registrytest.Fault{Status: 403, Body: body("DENIED", "the tag already exists and is immutable")}, get: none, put: none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			client := registry.NewClient(registry.Options{Insecure: []string{r.Host()}})
			test.fault.Match = registrytest.In(trapped)
			r.Inject(test.fault)
			if test.stop {
				r.Stop()
			}
			_, err := client.Get(t.Context(), reference.MustRepository(r.Host()+"/"+trapped), reference.MustTag("1"))
			found, why := suspicion(err)
			require.Equal(t, test.get, why, err)
			if why != none {
				require.Equal(t, r.Host(), found.Registry)
			}
			err = client.Put(t.Context(), reference.MustRepository(r.Host()+"/"+trapped), reference.MustTag("1"), registry.Manifest{Raw: []byte("{}"), MediaType: "application/vnd.oci.image.manifest.v1+json"})
			_, why = suspicion(err)
			require.Equal(t, test.put, why, err)
		})
	}
	_, why := suspicion(errors.New("an unknown error"))
	require.Empty(t, why)
	// An unknown error of skopeo is the fault of the image.
	_, why = suspicion(&skopeo.Error{ExitCode: 1, Side: skopeo.Source, Registry: "quay.io", Reason: "copying image: a sentence of a later skopeo"})
	require.Empty(t, why)
}

// TestExpiredCertificate: it is the fault of the registry, because it will be renewed; an
// unknown CA is not.
func TestExpiredCertificate(t *testing.T) {
	text := "pinging container registry quay.io: Get \"https://quay.io/v2/\": x509: certificate has expired or is not yet valid"
	_, why := suspicion(&skopeo.Error{ExitCode: 1, Side: skopeo.Source, Registry: "quay.io", Reason: "initializing source docker://quay.io/a: " + text})
	require.Equal(t, trouble, why)
	stranger := registrytest.New(t, registrytest.WithTLS())
	_, err := registry.NewClient(registry.Options{}).Head(t.Context(), reference.MustRepository(stranger.Host()+"/"+trapped), reference.MustTag("1"))
	require.ErrorIs(t, err, registry.ErrCertificate)
	_, why = suspicion(err)
	require.Empty(t, why)
}
