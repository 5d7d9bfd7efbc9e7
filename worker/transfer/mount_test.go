package transfer_test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestMount: a blob that another repository of the destination is known to have is not requested from
// the source. After the first mount has worked, each takes one request.
func TestMount(t *testing.T) {
	p := newPair(t)
	blob, content := p.push(t, 5*unit)
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	for _, name := range []string{"b", "c/d", "e"} {
		p.to.ResetRequests()
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination(name), blob))
		p.holds(t, name, blob, content)
		require.Equal(t, 1, p.to.Count(registrytest.All(mounts, registrytest.Answered(http.StatusCreated))))
		require.Equal(t, map[string]int{"b": 1}[name], p.to.Count(heads))
		require.Zero(t, p.to.Count(puts))
	}
	require.Equal(t, 1, p.from.Count(gets))
}

// TestMountFromTheSource: blobs are mounted if source and destination are at one registry.
func TestMountFromTheSource(t *testing.T) {
	p := newPair(t)
	content := random(1000)
	digest, err := p.to.PushBlob(repository, content)
	require.NoError(t, err)
	blob, _ := p.push(t, 1000)
	require.Equal(t, digest, blob.Digest.String())
	require.NoError(t, p.Send(t.Context(), p.destination(repository), p.destination("mirror"), blob))
	p.holds(t, "mirror", blob, content)
	require.Zero(t, p.to.Count(gets))
}

// TestMountsThatBecomeUploads: if the destination begins an upload instead of mounting the blob, that
// upload is used, and no upload remains.
func TestMountsThatBecomeUploads(t *testing.T) {
	for _, size := range []int{1000, 5 * unit} {
		p := newPair(t)
		blob, content := p.push(t, size)
		other, _ := p.push(t, 10)
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob, other))
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), other), "it is a registry that can")
		_, err := p.to.BreakBlob("a", blob.Digest.String())
		require.NoError(t, err)
		p.to.ResetRequests()
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), blob))
		p.holds(t, "b", blob, content)
		require.Equal(t, 1, p.to.Count(begins))
		require.Equal(t, 1, p.to.Count(registrytest.All(mounts, registrytest.Answered(http.StatusAccepted))))
		require.Zero(t, p.to.Count(method(http.MethodDelete)))
		uploads, err := p.to.Uploads("b")
		require.NoError(t, err)
		require.Zero(t, uploads)

		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("c"), blob), "b has it now")
		require.Equal(t, 2, p.from.Count(registrytest.All(gets, registrytest.Ref(blob.Digest.String()))))
	}
}

// TestMountsThatAreRefused: the blob is sent. After some refusals, the destination is not asked to
// mount blobs.
func TestMountsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusCreated, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusInternalServerError, http.StatusNotImplemented} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			p := newPair(t)
			blob, content := p.push(t, 1000)
			p.to.Inject(registrytest.Fault{Match: mounts, Status: status})
			asked := 0
			for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
				p.to.ResetRequests()
				require.NoError(t, p.Send(t.Context(), p.source(), p.destination(name), blob))
				p.holds(t, name, blob, content)
				if p.to.Count(mounts) > 0 {
					asked++
				}
			}
			require.Equal(t, 3, asked)
		})
	}
}

// TestMountsWithoutReceipt: if the answer does not prove that the blob is mounted, it is looked up.
func TestMountsWithoutReceipt(t *testing.T) {
	p := newPair(t)
	blob, content := p.push(t, 1000)
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.to.ResetRequests()
	p.to.Inject(registrytest.Fault{Match: mounts, Change: func(_ *http.Request, a *registrytest.Answer) { a.Header = http.Header{} }})
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), blob))
	p.holds(t, "b", blob, content)
	require.Equal(t, 2, p.to.Count(heads), "before the mount, and after it")
	require.Zero(t, p.to.Count(puts))
}

// TestMountsThatFail: if a mount fails in another way than by a refusal, so does the copy.
func TestMountsThatFail(t *testing.T) {
	p := newPair(t)
	blob, _ := p.push(t, 1000)
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		p.to.Inject(registrytest.Fault{Match: mounts, Status: status, Times: 1})
		require.ErrorContains(t, p.Send(t.Context(), p.source(), p.destination("b"), blob), strconv.Itoa(status))
		require.Equal(t, 1, p.from.Count(gets))
	}
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), blob))
	require.Equal(t, 1, p.from.Count(gets))
}

// TestMountAtTheSameTime: if repositories need a blob at the same time, it is copied to the first and
// mounted in the others. If the first copy fails, the others copy it themselves.
func TestMountAtTheSameTime(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"the first one gets it": false, "the first one fails": true} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			blob, content := p.push(t, 5*unit)
			asked, open := make(chan struct{}), make(chan struct{})
			fault := registrytest.Fault{Times: 1, Gate: open, Match: func(r registrytest.Request) bool {
				first := gets(r)
				if first {
					close(asked)
				}
				return first
			}}
			if fails {
				fault.Status = http.StatusNotFound
			}
			p.from.Inject(fault)
			first := make(chan error, 1)
			go func() { first <- p.Send(t.Context(), p.source(), p.destination("a"), blob) }()
			<-asked
			var others errgroup.Group
			for _, name := range []string{"b", "c", "d"} {
				others.Go(func() error { return p.Send(t.Context(), p.source(), p.destination(name), blob) })
			}
			close(open)
			require.NoError(t, others.Wait())
			for _, name := range []string{"b", "c", "d"} {
				p.holds(t, name, blob, content)
			}
			if fails {
				require.ErrorIs(t, <-first, registry.ErrNotFound)
				return
			}
			require.NoError(t, <-first)
			require.Equal(t, 1, p.from.Count(gets))
			require.Equal(t, 3, p.to.Count(registrytest.All(mounts, registrytest.Answered(http.StatusCreated))))
		})
	}
}

// TestEmptyDestination: small blobs are sent without looking them up; large ones are looked up.
func TestEmptyDestination(t *testing.T) {
	p := newPair(t)
	small, content := p.push(t, 64<<10)
	large, more := p.push(t, 64<<10+1)
	require.NoError(t, p.SendToEmpty(t.Context(), p.source(), p.destination("a"), small, large))
	p.holds(t, "a", small, content)
	p.holds(t, "a", large, more)
	require.Equal(t, 1, p.to.Count(heads))
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), small))
	require.Equal(t, 2, p.to.Count(heads))
}
