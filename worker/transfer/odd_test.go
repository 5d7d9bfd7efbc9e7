package transfer_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// changed is a fault that changes the successful answers to the requests of an upload with a method.
func changed(method string, change func(*registrytest.Answer)) registrytest.Fault {
	return registrytest.Fault{Match: anyOf(method), Change: func(_ *http.Request, a *registrytest.Answer) {
		if a.Status/100 == 2 {
			change(a)
		}
	}}
}

func status(code int) func(*registrytest.Answer) {
	return func(a *registrytest.Answer) { a.Status = code }
}

func without(names ...string) func(*registrytest.Answer) {
	return func(a *registrytest.Answer) {
		for _, name := range names {
			a.Header.Del(name)
		}
	}
}

// ranged changes the Range header of an answer. The argument of its function is the last byte's offset.
func ranged(write func(last int) string) func(*registrytest.Answer) {
	return func(a *registrytest.Answer) {
		_, text, _ := strings.Cut(a.Header.Get("Range"), "-")
		if last, err := strconv.Atoi(text); err == nil {
			a.Header.Set("Range", write(last))
		}
	}
}

func all(changes ...func(*registrytest.Answer)) func(*registrytest.Answer) {
	return func(a *registrytest.Answer) {
		for _, change := range changes {
			change(a)
		}
	}
}

// TestOddAnswersOfDestinations: answers to an upload with missing or odd headers do not fail the copy.
func TestOddAnswersOfDestinations(t *testing.T) {
	t.Parallel()
	everything := without("Location", "Range", "Docker-Upload-UUID", "Docker-Content-Digest", "OCI-Chunk-Min-Length")
	asBytes := func(last int) string { return fmt.Sprintf("bytes=0-%d", last) }
	tooFar := func(last int) string { return fmt.Sprintf("0-%d", last+1) }
	for name, faults := range map[string][]registrytest.Fault{
		"end 200":                    {changed("PUT", status(200))},
		"end 202":                    {changed("PUT", status(202))},
		"end 204":                    {changed("PUT", status(204))},
		"end 200 and no header":      {changed("PUT", all(everything, status(200)))},
		"end 201 and no header":      {changed("PUT", everything)},
		"end 202 and no header":      {changed("PUT", all(everything, status(202)))},
		"beginning 200":              {changed("POST", status(200))},
		"beginning 201":              {changed("POST", status(201))},
		"beginning without range":    {changed("POST", without("Range", "Docker-Upload-UUID"))},
		"part 200":                   {changed("PATCH", status(200))},
		"part 201":                   {changed("PATCH", status(201))},
		"part 204":                   {changed("PATCH", status(204))},
		"part without location":      {changed("PATCH", without("Location"))},
		"part 204 without location":  {changed("PATCH", all(without("Location"), status(204)))},
		"part 200 without location":  {changed("PATCH", all(without("Location"), status(200)))},
		"part 201 without location":  {changed("PATCH", all(without("Location"), status(201)))},
		"part without range":         {changed("PATCH", without("Range"))},
		"part with a range of bytes": {changed("PATCH", ranged(asBytes))},
		"part with a range too far":  {changed("PATCH", ranged(tooFar))},
		"part with no range at all":  {changed("PATCH", all(without("Range"), func(a *registrytest.Answer) { a.Header.Set("Range", "0-") }))},
		"states as bytes":            {changed("GET", ranged(asBytes)), changed("PATCH", ranged(asBytes))},
		"states 200":                 {changed("GET", status(200))},
		"states without location":    {changed("GET", without("Location"))},
		"states without range":       {changed("GET", without("Range"))},
		"states too far":             {changed("GET", ranged(tooFar)), changed("PATCH", ranged(tooFar))},
		"states refused":             {{Match: anyOf("GET"), Status: http.StatusMethodNotAllowed}},
		"relative locations":         {changed("POST", relative), changed("PATCH", relative), changed("GET", relative)},
	} {
		for _, cut := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", cut ", cut), func(t *testing.T) {
				t.Parallel()
				p := newPairTo(t, registrytest.WithMovingUploads(), registrytest.WithBodyLimit(8*unit))
				unit := unit
				if strings.Contains(name, "without location") {
					p = newPairTo(t) // distribution accepts pieces only at new locations
					if cut {         // more is to come than the buffers of the cut connection hold
						p.Shrink(1)
						unit = mib
					}
				}
				if cut {
					p.to.Inject(registrytest.Fault{Match: patches, CutUpload: int64(5 * unit), Times: 1})
				}
				for _, fault := range faults {
					p.to.Inject(fault)
				}
				sizes := []int{0, 1000, 7 * unit}
				if cut {
					sizes = []int{17*unit + 1}
				}
				for _, size := range sizes {
					blob, content := p.push(t, size)
					require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob), size)
					p.holds(t, "a", blob, content)
				}
			})
		}
	}
}

// relative makes the location relative to the URL of the request.
func relative(a *registrytest.Answer) {
	location, err := url.Parse(a.Header.Get("Location"))
	if err == nil {
		a.Header.Set("Location", location.Path[strings.LastIndexByte(location.Path, '/')+1:]+"?"+location.RawQuery)
	}
}

// TestNotStored: the copy fails if the destination answers with success, but does not have the blob.
func TestNotStored(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusOK, http.StatusAccepted, http.StatusNoContent} {
		p := newPair(t)
		blob, _ := p.push(t, 1000)
		p.to.Inject(registrytest.Fault{Match: puts, Status: status})
		require.ErrorIs(t, p.Send(t.Context(), p.source(), p.destination("a"), blob), registry.ErrPage)
		p.lacks(t, "a", blob)
	}
}

// TestRangesThatAreRefused: if a destination refuses a request because it has another number of bytes,
// it gets the bytes that it lacks.
func TestRangesThatAreRefused(t *testing.T) {
	t.Parallel()
	p := newPairTo(t, registrytest.WithBodyLimit(8*unit))
	blob, content := p.push(t, 30*unit)
	p.to.Inject(registrytest.Fault{Times: 1, Status: http.StatusRequestedRangeNotSatisfiable,
		Match: registrytest.All(patches, func(r registrytest.Request) bool { return strings.HasPrefix(r.Range, fmt.Sprint(8*unit, "-")) })})
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.holds(t, "a", blob, content)
	require.Equal(t, 2, p.to.Count(begins), "the first upload gets it in one piece, which is too large")
}

// TestMinimalPieces: all pieces but the last have at least the size that the destination states.
func TestMinimalPieces(t *testing.T) {
	t.Parallel()
	const least = 10 * unit
	p := newPairTo(t, registrytest.WithBodyLimit(12*unit))
	p.to.Inject(changed("POST", func(a *registrytest.Answer) { a.Header.Set("OCI-Chunk-Min-Length", strconv.Itoa(least)) }))
	for _, size := range []int{25 * unit, 70*unit + 1} {
		blob, content := p.push(t, size)
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
		p.holds(t, "a", blob, content)
	}
	for _, r := range p.to.Requests() {
		var first, last int
		if n, _ := fmt.Sscanf(r.Range, "%d-%d", &first, &last); n == 2 && patches(r) && r.Status == http.StatusAccepted && last+1 != 25*unit && last+1 != 70*unit+1 {
			require.GreaterOrEqual(t, last+1-first, least)
		}
	}
}

// TestPermissionsThatEnd: the signed URL of the source's storage expires in the middle of a blob. The
// rest is requested with another one.
func TestPermissionsThatEnd(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]bool{"one connection": false, "parts": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			blob, content := p.push(t, 40*unit)
			var given atomic.Int64
			var cuts atomic.Int64
			storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" || r.Referer() != "" {
					t.Error("the storage gets credentials")
				}
				if r.URL.Query().Get("permission") != strconv.FormatInt(given.Load(), 10) && !slow {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				if cuts.Add(1) < 4 {
					w.Header().Set("Content-Length", strconv.Itoa(len(content)))
					from := 0
					if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); n == 1 {
						w.Header().Set("Content-Length", strconv.Itoa(len(content)-from))
						w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", from, len(content)-1))
						w.WriteHeader(http.StatusPartialContent)
					}
					_, _ = w.Write(content[from:min(from+9*unit, len(content))])
					panic(http.ErrAbortHandler)
				}
				http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(content)))
			}))
			defer storage.Close()
			p.from.Inject(registrytest.Fault{Match: gets, Status: http.StatusTemporaryRedirect, Location: func(*url.URL) string {
				return fmt.Sprint(storage.URL, "/?permission=", given.Add(1))
			}})
			p.Blobs = allowing(p, storage.Listener.Addr().String()).Shrink(shrunk)
			if slow {
				p.SetSlow(0)
			}
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
		})
	}
}
