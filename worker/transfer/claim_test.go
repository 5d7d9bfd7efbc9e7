package transfer_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// claims claims a blob for a repository, and returns what comes of it.
func (p *pair) claims(t *testing.T, name string, blob registry.Descriptor) (released func() (release func(), err error)) {
	t.Helper()
	type claimed struct {
		release func()
		err     error
	}
	ended := make(chan claimed, 1)
	go func() {
		release, err := p.Claim(t.Context(), p.source(), p.destination(name), blob, false)
		ended <- claimed{release, err}
	}()
	return func() (func(), error) { c := <-ended; return c.release, c.err }
}

// TestClaim: others wait for the one that copies a blob. The repository has it then, and other
// repositories mount it.
func TestClaim(t *testing.T) {
	for name, size := range map[string]int{"small": 1000, "large": 5 * unit} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			blob, content := p.push(t, size)
			release, err := p.Claim(t.Context(), p.source(), p.destination("a"), blob, false)
			require.NoError(t, err)
			require.NotNil(t, release)
			same, other := p.claims(t, "a", blob), p.claims(t, "b", blob)
			if name == "small" {
				require.NoError(t, p.Put(t.Context(), p.destination("a"), blob, content))
			} else {
				upload, err := p.Begin(t.Context(), p.destination("a"), bytes.NewReader(content), int64(size))
				require.NoError(t, err)
				require.NoError(t, upload.End(t.Context(), blob.Digest))
			}
			release()
			for _, claimed := range []func() (func(), error){same, other} {
				missing, err := claimed()
				require.NoError(t, err)
				require.Nil(t, missing)
			}
			p.holds(t, "a", blob, content)
			p.holds(t, "b", blob, content)
			require.Equal(t, 1, p.to.Count(registrytest.All(mounts, registrytest.Answered(http.StatusCreated))))
			require.Equal(t, 1, p.to.Count(registrytest.All(puts, method(http.MethodPut))))
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob), "Send knows")
			require.Zero(t, p.from.Count(gets))
		})
	}
}

// TestClaimThatIsGivenUp: one of those that wait copies the blob, in any repository, whether it
// claims the blob or sends it.
func TestClaimThatIsGivenUp(t *testing.T) {
	for _, other := range []string{"a", "b"} {
		p := newPair(t)
		blob, content := p.push(t, 1000)
		release, err := p.Claim(t.Context(), p.source(), p.destination("a"), blob, false)
		require.NoError(t, err)
		claimed := p.claims(t, other, blob)
		release()
		missing, err := claimed()
		require.NoError(t, err)
		require.NotNil(t, missing)
		sent := make(chan error, 1)
		go func() { sent <- p.Send(t.Context(), p.source(), p.destination(other), blob) }()
		missing()
		require.NoError(t, <-sent)
		p.holds(t, other, blob, content)
	}
}

// TestClaimOfMountsThatAreRefused: a registry that does not mount blobs gets them several times, at
// the same time.
func TestClaimOfMountsThatAreRefused(t *testing.T) {
	p := newPair(t)
	p.to.Inject(registrytest.Fault{Match: mounts, Status: http.StatusMethodNotAllowed})
	for i := range 3 {
		blob, content := p.push(t, 1001+i)
		require.NoError(t, p.Put(t.Context(), p.destination("a"), blob, content))
		release, err := p.Claim(t.Context(), p.source(), p.destination("b"), blob, false)
		require.NoError(t, err)
		require.NotNil(t, release)
		release()
	}
	blob, _ := p.push(t, 1000)
	for _, name := range []string{"a", "b"} {
		release, err := p.Claim(t.Context(), p.source(), p.destination(name), blob, false)
		require.NoError(t, err)
		require.NotNil(t, release)
		defer release()
	}
	require.Equal(t, 3, p.to.Count(mounts))
}

// TestClaimThatFails: the error is that of the destination, and the next one looks again.
func TestClaimThatFails(t *testing.T) {
	p := newPair(t)
	blob, _ := p.push(t, 1000)
	p.to.Inject(registrytest.Fault{Match: heads, Status: http.StatusInternalServerError, Times: 1})
	_, err := p.Claim(t.Context(), p.source(), p.destination("a"), blob, false)
	require.ErrorIs(t, err, registry.ErrUnavailable)
	release, err := p.Claim(t.Context(), p.source(), p.destination("a"), blob, false)
	require.NoError(t, err)
	require.NotNil(t, release)
	release()
}

// TestPut: a destination that takes no blob with the request that ends its upload gets it before, and
// so it does the next one. What has another digest is not stored.
func TestPut(t *testing.T) {
	p := newPairTo(t, registrytest.WithEmptyEnd(http.StatusBadRequest))
	for i, name := range []string{"a", "b"} {
		blob, content := p.push(t, 1000+i)
		p.to.ResetRequests()
		require.NoError(t, p.Put(t.Context(), p.destination(name), blob, content))
		p.holds(t, name, blob, content)
		require.Equal(t, 2-i, p.to.Count(begins))
		require.Equal(t, 1, p.to.Count(patches))
	}
	blob, content := p.push(t, 2000)
	require.ErrorIs(t, p.Put(t.Context(), p.destination("a"), blob, content[1:]), registry.ErrRejected)
	release, err := p.Claim(t.Context(), p.source(), p.destination("a"), blob, false)
	require.NoError(t, err)
	require.NotNil(t, release)
	release()
}

// TestPutIsCut: the blob is there if only an answer was lost, and is sent again if not.
func TestPutIsCut(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"the answer": {Match: puts, Lose: true}, "the first answer": {Match: begins, Lose: true}, "the blob": {Match: puts, CutUpload: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			blob, content := p.push(t, 1000)
			fault.Times = 1
			p.to.Inject(fault)
			require.NoError(t, p.Put(t.Context(), p.destination("a"), blob, content))
			p.holds(t, "a", blob, content)
			require.Equal(t, name != "the answer", p.to.Count(begins) == 2)
		})
	}
}

// TestOddRanges: a blob is stored, whatever the destination states about what it has received.
func TestOddRanges(t *testing.T) {
	for name, write := range map[string]func(last int) string{
		"as it is": func(last int) string { return fmt.Sprintf("0-%d", last) },
		"bytes":    func(last int) string { return fmt.Sprintf("bytes=0-%d", last) },
		"too far":  func(last int) string { return fmt.Sprintf("0-%d", last+1) },
		"nothing":  func(int) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPairTo(t, registrytest.WithEmptyEnd(http.StatusBadRequest))
			p.to.Inject(changed("PATCH", ranged(write)))
			for _, size := range []int{1, 1000, 5 * unit} {
				blob, content := p.push(t, size)
				upload, err := p.Begin(t.Context(), p.destination("a"), bytes.NewReader(content), int64(size))
				require.NoError(t, err)
				require.NoError(t, upload.End(t.Context(), blob.Digest))
				p.holds(t, "a", blob, content)
				require.NoError(t, p.Send(t.Context(), p.source(), p.destination("b"), blob))
				p.holds(t, "b", blob, content)
			}
		})
	}
}
