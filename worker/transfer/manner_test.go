package transfer_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// TestBodyLimits: if a destination refuses a request as too large, the blob is sent in smaller pieces,
// and later blobs are sent in pieces of that size at once.
func TestBodyLimits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limit          int64
		pieces, others int // PATCHes that were accepted and refused
	}{
		"the largest piece": {limit: 65 * unit, pieces: 2, others: 1},
		"the next one":      {limit: 10 * unit, pieces: 9, others: 2},
		"nginx":             {limit: unit, pieces: 69, others: 3},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPairTo(t, registrytest.WithBodyLimit(test.limit))
			blob, content := p.push(t, 70*unit)
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
			require.Equal(t, test.pieces+test.others, p.to.Count(patches))
			require.Equal(t, test.others, p.to.Count(registrytest.All(patches, registrytest.Answered(http.StatusRequestEntityTooLarge))))

			p.to.ResetRequests()
			blob, content = p.push(t, 3*unit)
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
			require.Zero(t, p.to.Count(registrytest.Answered(http.StatusRequestEntityTooLarge)))
		})
	}
	require.LessOrEqual(t, transfer.UsualPieces[0], int64(100_000_000), "Cloudflare")
	require.Equal(t, int64(mib), transfer.UsualPieces[len(transfer.UsualPieces)-1], "nginx")
	t.Run("none is small enough", func(t *testing.T) {
		p := newPairTo(t, registrytest.WithBodyLimit(unit-1))
		blob, _ := p.push(t, 2*unit)
		err := p.Send(t.Context(), p.source(), p.destination("a"), blob)
		require.ErrorContains(t, err, "413")
		p.lacks(t, "a", blob)
	})
}

// TestNoPatch: if a registry refuses PATCH, blobs are sent in the request that ends the upload.
func TestNoPatch(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusUnsupportedMediaType} {
		p := newPairTo(t, registrytest.WithoutPatch(status))
		p.Blobs = transfer.New(registry.NewClient(registry.Options{
			Insecure: []string{p.from.Host(), p.to.Host()},
			Guard: func(_ context.Context, _ registry.Request, send func() error) error {
				err := send()
				if failed := (*registry.Error)(nil); errors.As(err, &failed) {
					require.NotEqual(t, status, failed.Status, "it would count against the registry")
				}
				return err
			},
		})).Shrink(shrunk)
		for range 2 {
			blob, content := p.push(t, 9*unit)
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
		}
		require.Equal(t, 1, p.to.Count(patches))
	}
}
