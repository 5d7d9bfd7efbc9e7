package mirror_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

var pages = map[string]registrytest.Fault{
	"html":    {Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html><title>Guest</title></html>"},
	"nothing": {Status: 200},
}

// bySkopeo matches requests of this kind that skopeo has sent.
func bySkopeo(kind registrytest.Kind) registrytest.Match {
	return func(r registrytest.Request) bool { return r.Kind == kind && strings.HasPrefix(r.UserAgent, "skopeo/") }
}

// readingItself is an engine that always reads the source itself.
type readingItself struct{ *skopeo.Runner }

func (readingItself) Pulls(context.Context, reference.Repository) int { return 1 }

// TestPagesThatSkopeoGets: if skopeo gets a web page, the failure is transient, whatever skopeo takes
// the page for. If the page still comes, the error names it.
func TestPagesThatSkopeoGets(t *testing.T) {
	auth := registrytest.TokenAuth{User: user, Password: password}
	for name, page := range pages {
		for _, test := range []struct {
			kind        registrytest.Kind
			destination bool
			named       bool // the mirror's own request gets the page, too
		}{
			{kind: registrytest.KindPing}, {kind: registrytest.KindToken},
			{kind: registrytest.KindManifestGet, named: true}, {kind: registrytest.KindBlobGet, named: true},
			{kind: registrytest.KindPing, destination: true}, {kind: registrytest.KindToken, destination: true},
		} {
			side := map[bool]string{false: "source", true: "destination"}[test.destination]
			t.Run(strings.Join([]string{side, string(test.kind), name}, " "), func(t *testing.T) {
				p := newLoggedIn(t, password, registrytest.WithTokenAuth(auth))
				struck := p.to
				if !test.destination {
					auth := auth
					auth.Anonymous = true
					p = newPair(t, registrytest.WithTokenAuth(auth))
					struck = p.from
				}
				p.byItself()
				_, err := p.from.PushImage(repository, "1", registrytest.Image{})
				require.NoError(t, err)
				struckBy := page
				struckBy.Match = bySkopeo(test.kind)
				remove := struck.Inject(struckBy)
				_, err = p.mirror(t, "1")
				require.Error(t, err)
				require.Equal(t, outcome.Transient, outcome.Classify(err), err)
				if !test.named {
					require.ErrorIs(t, err, mirror.ErrPassed)
				}
				remove()

				if test.named {
					struckBy.Match = registrytest.Kinds(test.kind)
					remove = struck.Inject(struckBy)
					_, err = p.mirror(t, "1")
					require.ErrorIs(t, err, registry.ErrPage)
					require.ErrorContains(t, err, map[string]string{"html": `the HTML page "Guest"`, "nothing": "nothing"}[name])
					require.Equal(t, outcome.Transient, outcome.Classify(err), err)
					remove()
				}
				_, err = p.mirror(t, "1")
				require.NoError(t, err)
				p.same(t, "1")
			})
		}
	}
}

// byItself makes skopeo send its requests itself.
func (p *pair) byItself() {
	p.Engine = readingItself{&skopeo.Runner{Insecure: []string{p.from.Host(), p.to.Host()}}}
}

// TestPagesAtTheDestination: a copy fails if the destination answers uploads with web pages, which
// skopeo takes for success.
func TestPagesAtTheDestination(t *testing.T) {
	pagesAtTheDestination(t, false)
	pagesAtTheDestination(t, true)
}

func pagesAtTheDestination(t *testing.T, itself bool) {
	for name, page := range pages {
		for at, match := range map[string]registrytest.Match{
			"everywhere": registrytest.Any, "manifest": puts,
			"look": registrytest.Kinds(registrytest.KindBlobHead), "upload": registrytest.Kinds(registrytest.KindBlobUpload),
		} {
			t.Run(fmt.Sprint(name, " ", at, " ", itself), func(t *testing.T) {
				p := newPair(t)
				if itself {
					p.byItself()
				}
				_, err := p.from.PushImage(repository, "1", registrytest.Image{})
				require.NoError(t, err)
				struck := page
				struck.Match = match
				remove := p.to.Inject(struck)
				_, err = p.mirror(t, "1")
				if !itself && at == "look" {
					require.NoError(t, err, "it is uploaded")
					p.same(t, "1")
					return
				}
				require.Error(t, err)
				require.Equal(t, outcome.Transient, outcome.Classify(err), err)
				remove()
				_, err = p.to.Digest(destination, "1")
				require.ErrorIs(t, err, registrytest.ErrNotFound)
				_, err = p.mirror(t, "1")
				require.NoError(t, err)
				p.same(t, "1")
			})
		}
	}
}

// TestWhatSkopeoIsRightAbout: if skopeo's error is confirmed, the copy fails finally.
func TestWhatSkopeoIsRightAbout(t *testing.T) {
	t.Run("another manifest", func(t *testing.T) {
		p := newPair(t)
		_, err := p.from.PushImage(repository, "1", registrytest.Image{})
		require.NoError(t, err)
		_, err = p.from.PushImage("other", "1", registrytest.Image{Version: "other"})
		require.NoError(t, err)
		other, err := p.from.Manifest("other", "1")
		require.NoError(t, err)
		p.from.Inject(registrytest.Fault{Match: gets, Status: 200, Body: string(other),
			Header: http.Header{"Content-Type": {"application/vnd.oci.image.manifest.v1+json"}}})
		_, err = p.mirror(t, "1")
		require.ErrorIs(t, err, registry.ErrDigestMismatch)
		require.Equal(t, outcome.Final, outcome.Classify(err), err)
	})
	for name, status := range map[string]int{"may not push": http.StatusUnauthorized} {
		t.Run(name, func(t *testing.T) {
			p := newLoggedIn(t, password, registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}))
			_, err := p.from.PushImage(repository, "1", registrytest.Image{})
			require.NoError(t, err)
			p.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return r.Method == http.MethodPost }, Status: status})
			_, err = p.mirror(t, "1")
			require.ErrorIs(t, err, registry.ErrUnauthorized)
			require.ErrorContains(t, err, `/mirror" in `)
			require.Equal(t, outcome.Final, outcome.Classify(err), err)
		})
	}
}
