package transfer_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// parts matches requests for a range of a blob that has an end.
var parts = registrytest.All(gets, func(r registrytest.Request) bool {
	return r.Range != "" && !strings.HasSuffix(r.Range, "-")
})

// TestParts: a large blob of a slow source comes in parts over several connections at once.
func TestParts(t *testing.T) {
	t.Parallel()
	const size = 6*partSize + 12345
	for name, options := range map[string][]registrytest.Option{
		"HTTP/1.1": nil,
		"HTTP/2":   {registrytest.WithTLS(), registrytest.WithHTTP2()},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, options...)
			p.SetSlow(0)
			blob, content := p.push(t, size)
			// The first four are answered when all of them have come.
			all := make(chan struct{})
			p.from.Inject(registrytest.Fault{Match: parts, Gate: all, Times: 4})
			go func() {
				defer close(all)
				for p.from.Count(parts) < 4 && t.Context().Err() == nil {
					_ = p.from.WaitFor(t.Context(), parts)
				}
			}()
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
			asked := ranges(p.from, parts)
			require.GreaterOrEqual(t, len(asked), 5)
			covers(t, asked, size)
		})
	}
}

// covers requires ranges that follow each other up to the end.
func covers(t *testing.T, asked []string, size int) {
	t.Helper()
	type span struct{ first, last int }
	var spans []span
	for _, text := range asked {
		var s span
		_, err := fmt.Sscanf(text, "bytes=%d-%d", &s.first, &s.last)
		require.NoError(t, err)
		spans = append(spans, s)
	}
	slices.SortFunc(spans, func(a, b span) int { return a.first - b.first })
	for i, s := range spans[1:] {
		require.Equal(t, spans[i].last+1, s.first)
	}
	require.Equal(t, size-1, spans[len(spans)-1].last)
}

// TestPartsThatFail: if a part does not come, or is another one, one connection is used for the rest of
// the blob and for the next blob of that source.
func TestPartsThatFail(t *testing.T) {
	t.Parallel()
	const size = 5 * partSize
	for name, fault := range map[string]registrytest.Fault{
		"refused":      {Status: http.StatusServiceUnavailable},
		"limited":      {Status: http.StatusTooManyRequests},
		"gone":         {Status: http.StatusNotFound},
		"reset":        {Reset: true},
		"cut":          {TruncateBody: true},
		"another part": {Status: http.StatusPartialContent, Header: http.Header{"Content-Range": {"bytes 0-9/10"}}, Body: "0123456789"},
		"all of it":    {Status: http.StatusOK, Body: "0123456789"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.SetSlow(0)
			blob, content := p.push(t, size)
			fault.Match = parts
			p.from.Inject(fault)
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
			require.NotZero(t, p.from.Count(parts))

			p.from.ResetRequests()
			other, content := p.push(t, size+1)
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), other))
			p.holds(t, "a", other, content)
			require.Equal(t, []string{""}, ranges(p.from, gets))
		})
	}
}

// TestIsFaster: several connections are kept if they are one and a half times as fast as one.
func TestIsFaster(t *testing.T) {
	require.True(t, transfer.IsFaster(1500*time.Millisecond, time.Second))
	require.False(t, transfer.IsFaster(1400*time.Millisecond, time.Second))
}

// TestPartsOfAnother: if the parts are those of another blob, the copy fails, and the next attempt uses
// one connection.
func TestPartsOfAnother(t *testing.T) {
	const size = 5 * partSize
	p := newPair(t)
	p.SetSlow(0)
	blob, content := p.push(t, size)
	remove := p.from.Inject(registrytest.Fault{
		Match: registrytest.All(parts, func(r registrytest.Request) bool { return strings.HasSuffix(r.Range, fmt.Sprint("-", size-1)) }),
		Change: func(_ *http.Request, answer *registrytest.Answer) {
			answer.Body = bytes.Repeat([]byte("x"), len(answer.Body))
		},
	})
	defer remove()
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.holds(t, "a", blob, content)
}
