package transfer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

var sample = registrytest.NewSample(8)

// TestEveryStep: whichever request fails, and however, once or from then on: if Send returns no error,
// the destination has the blob; if it returns one, a retry copies it.
func TestEveryStep(t *testing.T) {
	t.Parallel()
	type step struct {
		way    string
		http2  bool
		source bool
		registrytest.Step
	}
	const divided = 7 // so that the blob gets a connection of its own, which takes more than 4 MiB
	const size = 4*(8*mib/divided) + 1
	ways := map[string]func(p *pair) []reference.Repository{
		"one blob": func(p *pair) []reference.Repository { return []reference.Repository{p.destination("a")} },
		"a mount": func(p *pair) []reference.Repository {
			return []reference.Repository{p.destination("a"), p.destination("b")}
		},
	}
	start := func(t *testing.T, http2 bool) (*pair, registry.Descriptor, []byte) {
		var options []registrytest.Option
		if http2 {
			options = []registrytest.Option{registrytest.WithTLS(), registrytest.WithHTTP2()}
		}
		p := newPair(t, options...)
		p.to = registrytest.New(t, append(options, registrytest.WithDirectory(t.TempDir()), registrytest.WithTokenAuth(registrytest.TokenAuth{User: user, Password: password}))...)
		client := registry.NewClient(registry.Options{
			Insecure: []string{p.from.Host(), p.to.Host()}, Keychain: login{},
			Transport: registrytest.NewTransport(700*time.Millisecond, p.from, p.to),
		})
		p.Blobs = transfer.New(client).Shrink(divided)
		p.SetSlow(0)
		blob, content := p.push(t, size)
		return p, blob, content
	}
	send := func(t *testing.T, p *pair, way string, blob registry.Descriptor, content []byte) (err error) {
		for _, to := range ways[way](p) {
			if failed := p.Send(t.Context(), p.source(), to, blob); failed != nil {
				err = failed
				continue
			}
			p.holds(t, to.Path(), blob, content)
		}
		return err
	}
	var all []step
	for way := range ways {
		for _, http2 := range []bool{false, true} {
			p, blob, content := start(t, http2)
			require.NoError(t, send(t, p, way, blob, content))
			for _, s := range registrytest.Steps(len(p.from.Requests())) {
				all = append(all, step{way, http2, true, s})
			}
			for _, s := range registrytest.Steps(len(p.to.Requests())) {
				all = append(all, step{way, http2, false, s})
			}
		}
	}
	for _, s := range registrytest.Some(t, all, sample) {
		t.Run(fmt.Sprintf("%s, HTTP/2 %t, source %t, %s", s.way, s.http2, s.source, s.Step), func(t *testing.T) {
			t.Parallel()
			p, blob, content := start(t, s.http2)
			at := p.to
			if s.source {
				at = p.from
			}
			mend := at.Take(s.Step)
			if err := send(t, p, s.way, blob, content); err != nil {
				require.ErrorAs(t, err, new(*registry.Error))
			}
			mend()
			require.NoError(t, send(t, p, s.way, blob, content))
		})
	}
}
