package skopeo_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/child"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const repository = "osism/tool"

// large is more bytes than the buffers between two processes hold.
const large = 4 << 20

const small = 1 << 10

// stall is longer than a busy machine takes to start a skopeo.
const stall = 2 * time.Second

func patches(r registrytest.Request) bool { return r.Method == http.MethodPatch }

func opens(r registrytest.Request) bool { return r.Method == http.MethodPost }

func copyBetween(ctx context.Context, r *skopeo.Runner, from, digest, to string) error {
	return r.CopyManifest(ctx, reference.MustRepository(from+"/"+repository), reference.MustDigest(digest), reference.MustRepository(to+"/mirror"))
}

// stalling is a copy that stalls.
type stalling struct {
	name     string
	from, to string // hosts
	waits    string // for this host; empty: unknown
	ended    chan error
}

// begin copies an image between two hosts, which lead to two registries.
func begin(t *testing.T, name string, from *registrytest.Registry, layer int, hosts [2]string, waits string) stalling {
	t.Helper()
	digest, err := from.PushImage(repository, "1", registrytest.Image{Layers: []registrytest.Layer{{Seed: name, Size: layer}}})
	require.NoError(t, err)
	s := stalling{name, hosts[0], hosts[1], waits, make(chan error, 1)}
	r := &skopeo.Runner{Stall: stall, Insecure: hosts[:]}
	go func() { s.ended <- copyBetween(t.Context(), r, s.from, digest, s.to) }()
	return s
}

func (s stalling) check(t *testing.T) {
	err := <-s.ended
	require.ErrorIs(t, err, child.ErrStalled)
	want := "stalled: no byte moved for 2s"
	if s.waits != "" {
		want += ", waiting for " + s.waits
	}
	require.EqualError(t, err, want)
	var failed *skopeo.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, s.waits, failed.Registry)
}

// TestStall: the copy ends when either side goes silent, at any moment. The error names that side if
// it can be known.
func TestStall(t *testing.T) {
	partly := make(chan int, 1)
	partly <- large / 2
	var all []stalling
	for name, match := range map[string]registrytest.Match{
		"ping":     registrytest.Kinds(registrytest.KindPing),
		"manifest": registrytest.Kinds(registrytest.KindManifestGet),
		"blob":     registrytest.Kinds(registrytest.KindBlobGet),
		"partly":   registrytest.Kinds(registrytest.KindBlobGet),
	} {
		from, to, size := registrytest.New(t), registrytest.New(t), small
		fault, waits := registrytest.Fault{Match: match, Hang: true}, from.Host()
		if name == "partly" {
			fault, waits, size = registrytest.Fault{Match: match, Drip: partly}, "", large
		}
		from.Inject(fault)
		all = append(all, begin(t, "source "+name, from, size, [2]string{from.Host(), to.Host()}, waits))
	}
	for name, match := range map[string]registrytest.Match{
		"ping":       registrytest.Kinds(registrytest.KindPing),
		"look":       registrytest.Kinds(registrytest.KindBlobHead),
		"begin":      opens,
		"upload":     patches,
		"small blob": patches,
		"end":        registrytest.Kinds(registrytest.KindBlobUpload),
		"manifest":   registrytest.Kinds(registrytest.KindManifestPut),
	} {
		from, to, size := registrytest.New(t), registrytest.New(t), small
		waits := to.Host()
		switch name {
		case "upload":
			size = large
		case "small blob":
			waits = ""
		}
		to.Inject(registrytest.Fault{Match: match, Hang: true})
		all = append(all, begin(t, "destination "+name, from, size, [2]string{from.Host(), to.Host()}, waits))
	}
	for _, s := range all {
		t.Run(s.name, s.check)
	}
}

// TestFrozen: a frozen host answers nothing, not even a TLS handshake, and does not close
// connections.
func TestFrozen(t *testing.T) {
	freeze := func(relay *registrytest.Relay, struck *registrytest.Registry, match registrytest.Match) {
		if match == nil {
			relay.Freeze()
			return
		}
		seen, frozen := struck.Notify(match), make(chan struct{})
		struck.Inject(registrytest.Fault{Match: match, Gate: frozen})
		go func() { <-seen; relay.Freeze(); close(frozen) }()
	}
	var all []stalling
	for name, match := range map[string]registrytest.Match{
		"handshake": nil, "request": registrytest.Kinds(registrytest.KindPing), "blob": registrytest.Kinds(registrytest.KindBlobGet),
	} {
		from, to := registrytest.New(t), registrytest.New(t)
		relay := registrytest.NewRelay(t, from.Host)
		freeze(relay, from, match)
		all = append(all, begin(t, "source "+name, from, large, [2]string{relay.Host(), to.Host()}, relay.Host()))
	}
	for name, match := range map[string]registrytest.Match{
		"handshake": nil, "request": registrytest.Kinds(registrytest.KindPing), "blob": patches,
	} {
		from, to := registrytest.New(t), registrytest.New(t)
		relay := registrytest.NewRelay(t, to.Host)
		freeze(relay, to, match)
		all = append(all, begin(t, "destination "+name, from, large, [2]string{from.Host(), relay.Host()}, relay.Host()))
	}
	for _, s := range all {
		t.Run(s.name, s.check)
	}
}

// TestSlow: a slow copy continues as long as bytes move.
func TestSlow(t *testing.T) {
	from, to := registrytest.New(t), registrytest.New(t)
	digest, err := from.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	r := &skopeo.Runner{Stall: time.Second, Insecure: []string{from.Host(), to.Host()}}
	bytes := make(chan int)
	from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobGet), Times: 1, Drip: bytes})
	go func() {
		defer close(bytes)
		pace := time.NewTicker(r.Stall / 10)
		defer pace.Stop()
		for range 40 {
			<-pace.C
			bytes <- 1
		}
	}()
	require.NoError(t, copyBetween(t.Context(), r, from.Host(), digest, to.Host()))
}

// TestMeter: bytes are counted while they move.
func TestMeter(t *testing.T) {
	from, to := registrytest.New(t), registrytest.New(t)
	digest, err := from.PushImage(repository, "1", registrytest.Image{Layers: []registrytest.Layer{{Seed: "x", Size: large}}})
	require.NoError(t, err)
	pieces := make(chan int)
	from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobGet), Drip: pieces})
	r := &skopeo.Runner{Stall: deadline, Insecure: []string{from.Host(), to.Host()}}
	m := new(meter.Meter)
	copied := make(chan error, 1)
	go func() {
		copied <- copyBetween(meter.With(t.Context(), m), r, from.Host(), digest, to.Host())
	}()
	for _, sent := range []int64{large / 4, large / 2} {
		pieces <- large / 4
		pieces <- 0
		require.Eventually(t, func() bool { return m.Bytes() > sent*9/10 }, 2*deadline, time.Millisecond)
		require.Less(t, m.Bytes(), sent+1<<20)
	}
	close(pieces)
	require.NoError(t, <-copied)
}

// TestSilentSource: the copy ends if a source closes each connection before it sends a byte. Newer
// versions of skopeo would retry without end.
func TestSilentSource(t *testing.T) {
	const line = `time="2026-01-01T00:00:00Z" level=debug msg="Reading blob body from https://a.example/v2/b/blobs/sha256:0 failed ` +
		`(&errors.errorString{s:\"unexpected EOF\"}), decision inputs: total 4096 @121000.125 ms, last retry 4096 @60000.000 ms, last progress @%s ms"`
	for silence, then := range map[string]string{"120000.500": "sleep 600", "NaN": "sleep 600", "119000.500": "exit 0"} {
		t.Run(silence, func(t *testing.T) {
			r := script(t, fmt.Sprintf("cat >&2 <<'.'\n"+line+"\n.\n%s", silence, then))
			r.Stall = 2 * time.Minute
			err := r.CopyManifest(t.Context(), reference.MustRepository("a.example/b"), reference.DigestOf(nil), reference.MustRepository("c.example/d"))
			if then != "exit 0" {
				require.EqualError(t, err, "stalled: no byte moved for 2m0s, waiting for a.example")
			} else {
				require.NoError(t, err)
			}
		})
	}
}
