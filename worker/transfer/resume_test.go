package transfer_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// ranges returns the ranges of the requests; that for a whole blob is empty.
func ranges(r *registrytest.Registry, match registrytest.Match) (ranges []string) {
	for _, request := range r.Requests() {
		if match(request) {
			ranges = append(ranges, request.Range)
		}
	}
	return ranges
}

// TestCutsAtTheSource: after a cut, the missing bytes are requested, or the whole blob if the source
// ignores ranges. The destination gets each byte once.
func TestCutsAtTheSource(t *testing.T) {
	t.Parallel()
	const size = 8 * unit
	half := fmt.Sprintf("bytes=%d-", size/2)
	part := registrytest.All(gets, func(r registrytest.Request) bool { return r.Range != "" })
	for name, test := range map[string]struct {
		options []registrytest.Option
		fault   registrytest.Fault // of the second request
		asked   []string
	}{
		"parts":    {asked: []string{"", half}},
		"no parts": {options: []registrytest.Option{registrytest.WithoutRanges()}, asked: []string{"", half}},
		"another part": {asked: []string{"", half, ""}, fault: registrytest.Fault{Status: http.StatusPartialContent,
			Header: http.Header{"Content-Range": {fmt.Sprintf("bytes 0-%d/%d", size-1, size)}}, Body: strings.Repeat("x", size)}},
		"a part that ends early": {asked: []string{"", half, ""}, fault: registrytest.Fault{Status: http.StatusPartialContent,
			Header: http.Header{"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", size/2, size-2, size)}}, Body: strings.Repeat("x", size/2-1)}},
		"a part of nothing": {asked: []string{"", half, ""}, fault: registrytest.Fault{Status: http.StatusPartialContent, Body: "x"}},
		"416":               {asked: []string{"", half, ""}, fault: registrytest.Fault{Status: http.StatusRequestedRangeNotSatisfiable}},
		"the wrong bytes": {asked: []string{"", half, ""}, fault: registrytest.Fault{Status: http.StatusPartialContent,
			Header: http.Header{"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", size/2, size-1, size)}}, Body: strings.Repeat("x", size/2)}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, test.options...)
			blob, content := p.push(t, size)
			p.from.Inject(registrytest.Fault{Match: gets, TruncateBody: true, Times: 1})
			if test.fault.Status != 0 {
				test.fault.Match, test.fault.Times = part, 1
				p.from.Inject(test.fault)
			}
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
			require.Equal(t, test.asked, ranges(p.from, gets))
			begun := 1
			if name == "the wrong bytes" {
				begun = 2 // the destination has the bytes
			}
			require.Equal(t, begun, p.to.Count(begins))
			require.Equal(t, 1, p.to.Count(puts))
		})
	}
}

// TestCutBeforeAFailure: if the source fails after a cut, the error is that of the source.
func TestCutBeforeAFailure(t *testing.T) {
	p := newPair(t)
	blob, _ := p.push(t, 4*unit)
	p.from.Inject(registrytest.Fault{Match: gets, TruncateBody: true, Times: 1})
	p.from.Inject(registrytest.Fault{Match: gets, Status: http.StatusNotFound})
	require.ErrorContains(t, p.Send(t.Context(), p.source(), p.destination("a"), blob), "404")
	p.lacks(t, "a", blob)
}

// TestCutsWithoutEnd: a cut soon after another one fails the copy, and a retry continues the upload.
// If the destination had no time to store bytes before the first cut, the upload rightly restarts, and
// the test is repeated.
func TestCutsWithoutEnd(t *testing.T) {
	for range 5 {
		if cutsWithoutEnd(t) == 1 {
			return
		}
	}
	require.Fail(t, "each upload was begun more than once")
}

// cutsWithoutEnd returns how many uploads were begun.
func cutsWithoutEnd(t *testing.T) (begun int) {
	p := newPair(t)
	blob, content := p.push(t, 8*unit)
	remove := p.from.Inject(registrytest.Fault{Match: gets, TruncateBody: true})
	for last := 0; ; {
		p.to.ResetRequests()
		err := p.Send(t.Context(), p.source(), p.destination("a"), blob)
		require.ErrorIs(t, err, registry.ErrUnavailable)
		require.ErrorContains(t, err, "get blob "+p.source().String())
		asked := p.from.Count(gets)
		require.Greater(t, asked, last)
		p.to.Settle() // until it has noticed the cut
		begun += p.to.Count(begins)
		if last = asked; last > 6 {
			break
		}
	}
	remove()
	p.to.ResetRequests()
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.holds(t, "a", blob, content)
	if begun == 1 {
		require.Zero(t, p.to.Count(begins))
		require.NotContains(t, ranges(p.from, gets)[1:], "", "nothing is begun anew")
	}
	return begun
}

// TestCutsAtTheDestination: the bytes that the destination lacks are requested from the source and
// sent.
func TestCutsAtTheDestination(t *testing.T) {
	const size, taken = 8 * unit, 5*unit + 12345
	for name, test := range map[string]struct {
		match       registrytest.Match
		size, taken int64
		asked, sent []string
	}{
		"large": {match: patches, size: size, taken: taken,
			asked: []string{"", fmt.Sprintf("bytes=%d-", 5*unit)}, sent: []string{"", fmt.Sprintf("%d-%d", taken, size-1)}},
		"small":   {match: puts, size: 3 * unit, taken: 2*unit + 1, asked: []string{"", fmt.Sprintf("bytes=%d-", 2*unit)}, sent: []string{"", fmt.Sprintf("%d-%d", 2*unit+1, 3*unit-1)}},
		"smaller": {match: puts, size: 1000, taken: 10, asked: []string{"", ""}, sent: []string{"", "10-999"}},
		"at once": {match: puts, size: 1000, taken: 1, asked: []string{"", ""}, sent: []string{"", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			blob, content := p.push(t, int(test.size))
			p.to.Inject(registrytest.Fault{Match: test.match, CutUpload: test.taken, Times: 1})
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
			require.Equal(t, test.asked, ranges(p.from, gets))
			require.Equal(t, test.sent, ranges(p.to, func(r registrytest.Request) bool { return patches(r) || puts(r) }))
		})
	}
}

// sent returns the methods of the requests of uploads.
func sent(r *registrytest.Registry) (methods []string) {
	for _, request := range r.Requests() {
		if request.Kind == registrytest.KindBlobUpload || request.Kind == registrytest.KindOther {
			methods = append(methods, request.Method)
		}
	}
	return methods
}

// TestTheNextTryGoesOn: a retry continues the upload that a failed copy has left at the destination.
func TestTheNextTryGoesOn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault registrytest.Fault
		is    error
		next  []string // if nil, it depends on how much had been sent
		gets  int      // of both copies
	}{
		"503 at the end": {is: registry.ErrUnavailable, gets: 1, next: []string{"GET", "PUT"},
			fault: registrytest.Fault{Match: puts, Status: http.StatusServiceUnavailable, Times: 1}},
		"429 at the end": {is: registry.ErrLimited, gets: 1, next: []string{"GET", "PUT"},
			fault: registrytest.Fault{Match: puts, Status: http.StatusTooManyRequests, Times: 1}},
		"a page at the end": {is: registry.ErrPage, gets: 1, next: []string{"GET", "PUT"},
			fault: registrytest.Fault{Match: puts, Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>", Times: 1}},
		"503 in the middle": {is: registry.ErrUnavailable, gets: 2,
			fault: registrytest.Fault{Match: patches, Status: http.StatusServiceUnavailable, Times: 1}},
		// The registry states the same range for none as for one byte.
		"503 after all of it": {is: registry.ErrUnavailable, gets: 2, next: []string{"GET", "DELETE", "POST", "PATCH", "PUT"},
			fault: registrytest.Fault{Match: patches, Status: http.StatusServiceUnavailable, Drain: true, Times: 1}},
		"denied at the end": {is: registry.ErrDenied, gets: 2, next: []string{"POST", "PATCH", "PUT"},
			fault: registrytest.Fault{Match: puts, Status: http.StatusForbidden, Times: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			blob, content := p.push(t, 6*unit)
			p.to.Inject(test.fault)
			err := p.Send(t.Context(), p.source(), p.destination("a"), blob)
			require.ErrorIs(t, err, test.is)
			require.ErrorContains(t, err, "put "+p.destination("a").String())
			p.lacks(t, "a", blob)
			p.to.ResetRequests()
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
			if test.next != nil {
				require.Equal(t, test.next, sent(p.to))
			}
			require.Equal(t, test.gets, p.from.Count(gets))
		})
	}
}

// TestUploadsThatAreForgotten: an upload that the destination has forgotten is restarted, once.
func TestUploadsThatAreForgotten(t *testing.T) {
	for _, size := range []int{1000, 6 * unit} {
		p := newPair(t)
		blob, content := p.push(t, size)
		p.to.Inject(registrytest.Fault{Match: puts, Status: http.StatusNotFound, Times: 1})
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
		p.holds(t, "a", blob, content)
		require.Equal(t, 2, p.to.Count(begins))

		p.restart()
		p.to.Inject(registrytest.Fault{Match: puts, Status: http.StatusNotFound})
		err := p.Send(t.Context(), p.source(), p.destination("b"), blob)
		require.ErrorIs(t, err, registry.ErrNotFound)
		require.ErrorContains(t, err, "put "+p.destination("b").String())
		require.Equal(t, 4, p.to.Count(begins))
	}
}

// TestTokensThatEnd: if a token expires in the middle of a blob, the bytes sent are not lost.
func TestTokensThatEnd(t *testing.T) {
	t.Parallel()
	for name, match := range map[string]registrytest.Match{"in the middle": patches, "at the end": puts, "at the beginning": begins} {
		for _, size := range []int{1000, 6 * unit} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				p := newPair(t)
				blob, content := p.push(t, size)
				p.to.Inject(registrytest.Fault{Match: match, Status: http.StatusUnauthorized, Times: 1})
				require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
				p.holds(t, "a", blob, content)
				require.LessOrEqual(t, p.from.Count(gets), 2)
			})
		}
	}
}

// TestContentOfAnotherDigest: content with another digest is never stored, even after cuts.
func TestContentOfAnotherDigest(t *testing.T) {
	const size = 6 * unit
	p := newPair(t)
	blob, _ := p.push(t, size)
	p.from.Inject(registrytest.Fault{Match: gets, TruncateBody: true, Times: 1})
	p.from.Inject(registrytest.Fault{Match: gets, Status: http.StatusPartialContent, Body: strings.Repeat("x", size/2),
		Header: http.Header{"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", size/2, size-1, size)}}, Times: 1})
	p.from.Inject(registrytest.Fault{Match: gets, Status: http.StatusOK, Body: strings.Repeat("x", size)})
	err := p.Send(t.Context(), p.source(), p.destination("a"), blob)
	require.ErrorIs(t, err, registry.ErrDigestMismatch)
	require.ErrorContains(t, err, "get blob "+p.source().String())
	p.lacks(t, "a", blob)
	require.Equal(t, 3, p.from.Count(gets))
}
