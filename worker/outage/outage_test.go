package outage_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const (
	// patience bounds waits that take seconds: a registry is closed for four seconds at first.
	patience = 30 * time.Second
	tick     = 50 * time.Millisecond
	// silence is the stall timeout: longer than a busy machine takes to answer.
	silence = 2 * time.Second
)

var (
	heads     = registrytest.Kinds(registrytest.KindManifestHead)
	puts      = registrytest.Kinds(registrytest.KindManifestPut)
	pings     = registrytest.Kinds(registrytest.KindPing)
	manifests = registrytest.Kinds(registrytest.KindManifestHead, registrytest.KindManifestGet)
	layers    = registrytest.Kinds(registrytest.KindBlobGet)
	html      = http.Header{"Content-Type": {"text/html"}}
)

// TestAway: a registry that does not answer like a registry is closed by the first error. Then it
// gets only probes, and reopens soon after it works again.
func TestAway(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"connection refused": {},
		"503":                {Status: 503},
		"502 with a page":    {Status: 502, Header: html, Body: "<html>Bad Gateway</html>"},
		"500":                {Status: 500},
		"reset":              {Reset: true},
		"silence":            {Hang: true},
		"a page":             {Status: 200, Header: html, Body: "<html>Sign in</html>"},
		"401":                {Status: 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := pushed(t, "a", "b", "c")
			b := brokertest.Embedded(t)
			one, two := newWorker(t, b, r), newWorker(t, b, r)
			look := func(w *worker, repository string) error {
				_, err := w.client.Head(t.Context(), at(r, repository), reference.MustTag("1"))
				return err
			}
			require.NoError(t, look(one, "a"))
			back := r.Restart
			if name == "connection refused" {
				r.Stop()
			} else {
				remove := r.Inject(fault)
				back = func() error { remove(); return nil }
			}
			require.True(t, closed(look(one, "a")))
			away := one.Budget.IsAway(r.Host())
			require.NotNil(t, away)
			require.WithinDuration(t, time.Now(), away.Since, time.Minute)
			require.Eventually(t, func() bool { away := two.Budget.IsAway(r.Host()); return away != nil }, patience, tick)
			r.ResetRequests()
			for range 100 {
				require.True(t, closed(look(one, "b")))
				require.True(t, closed(look(two, "c")))
			}
			require.LessOrEqual(t, r.Count(registrytest.Any), 4, "probes only")
			require.NoError(t, back())
			for _, w := range []*worker{one, two} {
				require.Eventually(t, func() bool { return look(w, "a") == nil }, patience, tick)
			}
		})
	}
}

// TestPushesFail: if look-ups succeed and pushes fail, the registry is closed after a few images;
// after a few repositories if the pushes are denied. Only a push reopens it.
func TestPushesFail(t *testing.T) {
	body := func(code, message string) string {
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
	}
	for name, test := range map[string]struct {
		fault        registrytest.Fault
		repositories int // repositories with a failed image each before the registry is closed
	}{
		"503":         {registrytest.Fault{Status: 503}, 3},
		"507":         {registrytest.Fault{Status: 507}, 1},
		"a page":      {registrytest.Fault{Status: 200, Header: html, Body: "<html>"}, 3},
		"quota":       {registrytest.Fault{Status: 403, Body: body("DENIED", "quota exceeded")}, 1},
		"413":         {registrytest.Fault{Status: 413, Body: body("DENIED", "storage limit exceeded")}, 1},
		"read-only":   {registrytest.Fault{Status: 405, Body: body("UNSUPPORTED", "the registry is read-only")}, 1},
		"maintenance": {registrytest.Fault{Status: 403, Body: body("DENIED", "read only mode")}, 1},
		"401":         {registrytest.Fault{Status: 401}, 3},
		"403":         {registrytest.Fault{Status: 403, Body: body("DENIED", "no")}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := pushed(t, "a", "b", "c", "d")
			w := newWorker(t, brokertest.Embedded(t), r)
			require.NoError(t, w.put(t, r, "d", "2"))
			// An image that has worked before: if it fails now, the registry is at fault.
			digest, err := r.Digest("d", "1")
			require.NoError(t, err)
			w.Known(reference.MustRepository("source.example.com/d"), at(r, "d"), reference.MustDigest(digest))
			test.fault.Match = func(q registrytest.Request) bool { return q.Method == http.MethodPut || q.Method == http.MethodPost }
			remove := r.Inject(test.fault)
			for i, repository := range []string{"a", "b", "c"} {
				require.Equal(t, i+1 >= test.repositories, closed(w.put(t, r, repository, "2")), repository)
			}
			require.True(t, closed(w.put(t, r, "d", "2")))
			_, err = w.client.Head(t.Context(), at(r, "a"), reference.MustTag("1"))
			require.True(t, closed(err), "nothing is asked meanwhile")
			remove()
			require.Eventually(t, func() bool {
				probing, err := w.Open(t.Context(), at(r, "a"))
				return probing && err == nil
			}, patience, tick)
			_, err = w.client.Head(t.Context(), at(r, "a"), reference.MustTag("1"))
			require.NoError(t, err, "a prober may look")
			away := w.Budget.IsAway(r.Host())
			require.NotNil(t, away, "a look-up proves nothing")
			require.NoError(t, w.put(t, r, "a", "2"))
			away = w.Budget.IsAway(r.Host())
			require.Nil(t, away)
		})
	}
}

// TestStrangeCertificate: an untrusted certificate closes a registry that has worked before. At
// another registry, it fails the images, because the settings are wrong.
func TestStrangeCertificate(t *testing.T) {
	for name, worked := range map[string]bool{"from the beginning": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, registrytest.WithTLS())
			w := newWorker(t, brokertest.Embedded(t))
			strict := registry.Options{Transport: new(http.Transport)}
			w.Registry = registry.NewClient(strict)
			strict.Guard = w.Guard
			w.client = registry.NewClient(strict)
			if worked {
				require.NoError(t, w.GuardCopy(t.Context(), at(r, "a"), reference.MustRepository("target.example.com/a"), reference.DigestOf(nil),
					func(context.Context) error { return nil }))
			}
			_, err := w.client.Head(t.Context(), at(r, "a"), reference.MustTag("1"))
			require.ErrorIs(t, err, registry.ErrCertificate)
			require.Equal(t, worked, closed(err))
		})
	}
}

// TestOneRepositoryIsRefused: if one repository is refused, the registry stays open after any
// number of images, even without another image to compare with.
func TestOneRepositoryIsRefused(t *testing.T) {
	r := pushed(t, "a", "b")
	w := newWorker(t, brokertest.Embedded(t), r)
	r.Inject(registrytest.Fault{Match: registrytest.All(puts, registrytest.In("a")), Status: 403})
	for _, tag := range registrytest.Numbered("%d", 20) {
		require.False(t, closed(w.put(t, r, "a", tag)))
	}
	require.NoError(t, w.put(t, r, "b", "2"))
}

// TestNothingIsThere: a proxy without its registry answers 404 to every request, and is closed. A
// working registry that answers 404 for missing content stays open.
func TestNothingIsThere(t *testing.T) {
	r := pushed(t, "a")
	w := newWorker(t, brokertest.Embedded(t), r)
	look := func() error {
		_, err := w.client.Head(t.Context(), at(r, "a"), reference.MustTag("2"))
		require.ErrorIs(t, err, registry.ErrNotFound)
		return w.Blames(t.Context(), err)
	}
	require.NoError(t, look())
	r.ResetRequests()
	require.NoError(t, look())
	require.Zero(t, r.Count(pings), "it has just said that it is alive")

	r = pushed(t, "a")
	w = newWorker(t, brokertest.Embedded(t), r)
	_, err := w.client.Head(t.Context(), at(r, "a"), reference.MustTag("1"))
	require.NoError(t, err)
	r.Inject(registrytest.Fault{Status: 404, Body: "404 page not found"})
	require.True(t, closed(look()))

	r, to := pushed(t, "a"), registrytest.New(t)
	w = newWorker(t, brokertest.Embedded(t), r, to)
	copied := func() error {
		return w.GuardCopy(t.Context(), at(r, "a"), at(to, "a"), reference.DigestOf(nil), func(context.Context) error {
			return &skopeo.Error{ExitCode: 1, Side: skopeo.Source, Registry: r.Host(), Err: errors.New("exit status 1"),
				Reason: "reading blob: Error fetching blob: invalid status code from registry 404 (Not Found)"}
		})
	}
	require.False(t, closed(copied()))
	r.Inject(registrytest.Fault{Status: 404, Body: "404 page not found"})
	require.True(t, closed(copied()))
}

// TestOneImageFails: if one image fails, the registry stays open, however often that is tried.
func TestOneImageFails(t *testing.T) {
	r := pushed(t, "a", "b")
	w := newWorker(t, brokertest.Embedded(t), r)
	r.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("2")), Status: 500})
	for range 10 {
		_, err := w.client.Head(t.Context(), at(r, "a"), reference.MustTag("2"))
		require.Error(t, err)
		require.False(t, closed(err))
	}
	_, err := w.client.Head(t.Context(), at(r, "b"), reference.MustTag("1"))
	require.NoError(t, err)
}

// TestSourceFails: if manifests or layers cannot be read, the tracker tries images that both sides
// have.
func TestSourceFails(t *testing.T) {
	failed := func(host string) *skopeo.Error {
		return &skopeo.Error{ExitCode: 1, Side: skopeo.Source, Registry: host, Err: errors.New("exit status 1"),
			Reason: "reading blob: Error fetching blob: invalid status code from registry 500 (Internal Server Error)"}
	}
	for name, test := range map[string]struct {
		fault registrytest.Fault
		want  bool
	}{
		"all layers":      {registrytest.Fault{Match: layers, Status: 500}, true},
		"all manifests":   {registrytest.Fault{Match: manifests, Status: 500}, true},
		"of these images": {registrytest.Fault{Match: registrytest.In("none")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := pushed(t, "fine"), pushed(t, "mirror/fine")
			same := registrytest.Image{Layers: []registrytest.Layer{{Seed: "same", Size: 1 << 10}}}
			digest, err := from.PushImage("fine", "1", same)
			require.NoError(t, err)
			_, err = to.PushImage("mirror/fine", "1", same)
			require.NoError(t, err)
			w := newWorker(t, brokertest.Embedded(t), from, to)
			w.Known(at(from, "fine"), at(to, "mirror/fine"), reference.MustDigest(digest))
			from.Inject(test.fault)
			for i, repository := range []string{"a", "b", "c", "d"} {
				err := w.GuardCopy(t.Context(), at(from, repository), at(to, "mirror/"+repository), reference.MustDigest(digest), func(context.Context) error {
					return failed(from.Host())
				})
				require.Error(t, err)
				require.Equal(t, test.want && i >= 2, closed(err), repository)
			}
			away := w.Budget.IsAway(to.Host())
			require.Nil(t, away, "the destination is fine")
		})
	}
}

// TestCopyThatDoesNotSay: if the error does not show for which side the copy waited, both are
// probed.
func TestCopyThatDoesNotSay(t *testing.T) {
	from, to := registrytest.New(t), registrytest.New(t)
	w := newWorker(t, brokertest.Embedded(t), from, to)
	ended := func(context.Context) error {
		return &skopeo.Error{ExitCode: -1, Reason: "the copy took longer than COPY_TIMEOUT (30m0s)", Err: context.DeadlineExceeded}
	}
	copied := func() error {
		return w.GuardCopy(t.Context(), at(from, "a"), at(to, "a"), reference.DigestOf(nil), ended)
	}
	require.False(t, closed(copied()))
	to.Inject(registrytest.Fault{Hang: true})
	require.True(t, closed(copied()))
	away := w.Budget.IsAway(to.Host())
	require.NotNil(t, away)
	away = w.Budget.IsAway(from.Host())
	require.Nil(t, away)
}

// TestOneProbeAtATime: of the requests that wait for a registry, one is sent as a probe. The others
// follow its result.
func TestOneProbeAtATime(t *testing.T) {
	r := registrytest.New(t)
	w := newWorker(t, brokertest.Embedded(t), r)
	require.NoError(t, w.Budget.Away(t.Context(), budget.Outage{Registry: r.Host(), Activity: budget.Push, Reason: "full", Started: time.Now()}))
	full := &skopeo.Error{ExitCode: 1, Side: skopeo.Destination, Registry: r.Host(), Err: errors.New("exit status 1"),
		Reason: "writing blob: uploading layer to x received unexpected HTTP status: 507 Insufficient Storage"}
	var running, most, tried atomic.Int32
	attempt := func(result error) []error {
		require.Eventually(t, func() bool { _, err := w.Open(t.Context(), at(r, "a")); return err == nil }, patience, tick)
		running.Store(0)
		most.Store(0)
		tried.Store(0)
		ended := make(chan error)
		for i := range 8 {
			go func() {
				ended <- w.GuardCopy(t.Context(), reference.MustRepository("source.example.com/a"), at(r, "a"), reference.DigestOf([]byte{byte(i)}), func(context.Context) error {
					tried.Add(1)
					n := running.Add(1)
					most.Store(max(most.Load(), n))
					defer running.Add(-1)
					return result
				})
			}()
		}
		var errs []error
		for range 8 {
			errs = append(errs, <-ended)
		}
		return errs
	}
	for _, err := range attempt(full) {
		require.True(t, closed(err))
	}
	require.EqualValues(t, 1, tried.Load())
	for _, err := range attempt(nil) {
		require.NoError(t, err)
	}
	require.EqualValues(t, 8, tried.Load())
}
