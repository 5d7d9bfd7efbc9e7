package transfer_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// TestConnections: each large blob has its own connection to the source and to the destination.
// Small ones share the connections of other requests. The largest is begun first.
func TestConnections(t *testing.T) {
	t.Parallel()
	both := []registrytest.Option{registrytest.WithTLS(), registrytest.WithHTTP2(), registrytest.WithDirectory(t.TempDir())}
	p := &pair{from: registrytest.New(t, both...), to: registrytest.New(t, both...)}
	p.Blobs = allowing(p)
	var blobs []registry.Descriptor
	large := map[string]bool{}
	for _, size := range []int{1000, 5 * mib, mib, 6 * mib, 7 * mib} {
		blob, _ := p.push(t, size)
		blobs = append(blobs, blob)
		large[blob.Digest.String()] = size > 4*mib
	}
	// Either side answers when the requests for all large blobs have come, so that none can reuse
	// the connection of another.
	isLarge := registrytest.All(gets, func(r registrytest.Request) bool { return large[r.Reference] })
	isPatch := func(r registrytest.Request) bool { return r.Method == http.MethodPatch }
	for side, match := range map[*registrytest.Registry]registrytest.Match{p.from: isLarge, p.to: isPatch} {
		all := make(chan struct{})
		side.Inject(registrytest.Fault{Match: match, Gate: all})
		go func() {
			defer close(all)
			for side.Count(match) < 3 && t.Context().Err() == nil {
				_ = side.WaitFor(t.Context(), match)
			}
		}()
	}
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blobs...))
	for _, side := range []*registrytest.Registry{p.from, p.to} {
		shared, own := map[string]bool{}, map[string]bool{}
		for _, r := range side.Requests() {
			if isLarge(r) || isPatch(r) {
				require.Equal(t, "HTTP/1.1", r.Proto, "%s %s", r.Method, r.Path)
				require.False(t, own[r.Client], "%s %s", r.Method, r.Path)
				own[r.Client] = true
				continue
			}
			require.Equal(t, "HTTP/2.0", r.Proto, "%s %s", r.Method, r.Path)
			shared[r.Client] = true
		}
		require.Len(t, own, 3)
		require.Len(t, shared, 1)
	}
}

// TestLargestFirst: if an image has more blobs than are copied at once, the largest are copied first.
func TestLargestFirst(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	var blobs []registry.Descriptor
	for i := range transfer.Together + 1 {
		blob, _ := p.push(t, 100+i)
		blobs = append(blobs, blob)
	}
	ctx, cancel := t.Context(), make(chan struct{})
	p.from.Inject(registrytest.Fault{Match: gets, Gate: cancel})
	go func() {
		defer close(cancel)
		for p.from.Count(gets) < transfer.Together && ctx.Err() == nil {
			_ = p.from.WaitFor(ctx, gets)
		}
		for _, r := range p.from.Requests() {
			if gets(r) && r.Reference == blobs[0].Digest.String() {
				t.Error("the smallest blob is not the last one")
			}
		}
	}()
	require.NoError(t, p.Send(ctx, p.source(), p.destination("a"), blobs...))
}
