package transfer_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// TestUploadsThatMove: each answer to an upload may name another location for the next request.
func TestUploadsThatMove(t *testing.T) {
	for _, size := range []int{0, 1000, 9 * unit} {
		for _, cut := range []bool{false, true} {
			p := newPairTo(t, registrytest.WithMovingUploads(), registrytest.WithBodyLimit(8*unit))
			blob, content := p.push(t, size)
			if cut {
				p.to.Inject(registrytest.Fault{Match: puts, CutUpload: 1, Times: 1})
			}
			require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
			p.holds(t, "a", blob, content)
		}
	}
}

// TestEmptyEnd: if a registry refuses content in the request that ends an upload, this blob and all
// later ones are sent before that request.
func TestEmptyEnd(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusNotImplemented} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			p := newPairTo(t, registrytest.WithEmptyEnd(status))
			for i, size := range []int{1000, 2000, 0, 9 * unit} {
				blob, content := p.push(t, size)
				require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
				p.holds(t, "a", blob, content)
				if i > 0 {
					require.Zero(t, p.to.Count(registrytest.Answered(status)))
				}
				p.to.ResetRequests()
			}
		})
	}
}

// TestLostAnswers: if the destination stores a blob and its answer is lost, the blob is not sent again.
func TestLostAnswers(t *testing.T) {
	for name, match := range map[string]registrytest.Match{"the last": puts, "one before": patches, "the first": begins} {
		for _, size := range []int{1000, 6 * unit} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				p := newPair(t)
				blob, content := p.push(t, size)
				p.to.Inject(registrytest.Fault{Match: match, Lose: true, Times: 1})
				err := p.Send(t.Context(), p.source(), p.destination("a"), blob)
				require.NoError(t, err)
				p.holds(t, "a", blob, content)
				if name != "the first" {
					require.Equal(t, 1, p.from.Count(gets))
				}
			})
		}
	}
}

// TestStorageElsewhere: a storage to which the source redirects gets no credentials. If its signed URL
// expires, the source is asked for another.
func TestStorageElsewhere(t *testing.T) {
	p := newPair(t)
	blob, content := p.push(t, 6*unit)
	refusals := 1
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if refusals > 0 {
			refusals--
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write(content)
	}))
	defer storage.Close()
	p.from.Inject(registrytest.Fault{Match: gets, Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {storage.URL}}})
	p.Blobs = allowing(p, storage.Listener.Addr().String()).Shrink(shrunk)
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.holds(t, "a", blob, content)
	require.Equal(t, 2, p.from.Count(gets), "another redirect has another permission")
}

// TestStorageWithoutHead: the destination's storage may permit only GET. The blob is copied anyway.
func TestStorageWithoutHead(t *testing.T) {
	p := newPair(t)
	blob, content := p.push(t, 1000)
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer storage.Close()
	p.to.Inject(registrytest.Fault{Match: heads, Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {storage.URL}}})
	p.Blobs = transfer.New(registry.NewClient(registry.Options{
		Insecure: []string{p.from.Host(), p.to.Host(), storage.Listener.Addr().String()}, Keychain: login{},
		Guard: func(_ context.Context, _ registry.Request, send func() error) error {
			err := send()
			require.NotErrorIs(t, err, registry.ErrUnavailable)
			return err
		},
	}))
	require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob))
	p.holds(t, "a", blob, content)
}

// TestOddAnswersOfSources: the destination stores nothing but the blob, whatever the source answers.
func TestOddAnswersOfSources(t *testing.T) {
	const size = 6 * unit
	for name, test := range map[string]struct {
		change func(*http.Request, *registrytest.Answer)
		fine   bool
	}{
		"longer":                     {change: func(_ *http.Request, a *registrytest.Answer) { a.Body = append(a.Body, 'x') }},
		"shorter":                    {change: func(_ *http.Request, a *registrytest.Answer) { a.Body = a.Body[1:] }},
		"longer, of unknown length":  {change: func(_ *http.Request, a *registrytest.Answer) { a.Body = append(a.Body, 'x'); chunked(a) }, fine: true},
		"shorter, of unknown length": {change: func(_ *http.Request, a *registrytest.Answer) { a.Body = a.Body[1:]; chunked(a) }},
		"of unknown length":          {change: func(_ *http.Request, a *registrytest.Answer) { chunked(a) }, fine: true},
		"compressed": {change: func(_ *http.Request, a *registrytest.Answer) {
			a.Body = compressed(a.Body)
			a.Header.Set("Content-Encoding", "gzip")
		}, fine: true},
		"compressed, of unknown length": {change: func(_ *http.Request, a *registrytest.Answer) {
			a.Body = compressed(a.Body)
			a.Header.Set("Content-Encoding", "x-gzip")
			chunked(a)
		}, fine: true},
		"compressed, of another blob": {change: func(_ *http.Request, a *registrytest.Answer) {
			a.Body[0]++
			a.Body = compressed(a.Body)
			a.Header.Set("Content-Encoding", "gzip")
		}},
		"compressed, and more": {change: func(_ *http.Request, a *registrytest.Answer) {
			a.Body = compressed(append(a.Body, 'x'))
			a.Header.Set("Content-Encoding", "gzip")
		}, fine: true},
		"compressed, and less": {change: func(_ *http.Request, a *registrytest.Answer) {
			a.Body = compressed(a.Body[1:])
			a.Header.Set("Content-Encoding", "gzip")
		}},
		"declared as compressed, of unknown length": {change: func(_ *http.Request, a *registrytest.Answer) {
			a.Header.Set("Content-Encoding", "gzip")
			chunked(a)
		}, fine: true},
		"declared as compressed": {change: func(_ *http.Request, a *registrytest.Answer) { a.Header.Set("Content-Encoding", "gzip") }, fine: true},
		"all of it as a part": {change: func(_ *http.Request, a *registrytest.Answer) {
			a.Status = http.StatusPartialContent
			a.Header.Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", size-1, size))
		}, fine: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			blob, content := p.push(t, size)
			p.from.Inject(registrytest.Fault{Match: gets, Change: test.change})
			err := p.Send(t.Context(), p.source(), p.destination("a"), blob)
			if test.fine {
				require.NoError(t, err)
				p.holds(t, "a", blob, content)
				return
			}
			require.Error(t, err)
			require.ErrorContains(t, err, "get blob "+p.source().String())
			p.lacks(t, "a", blob)
		})
	}
}

// TestCompressed: a blob that the source sends with a Content-Encoding is decoded, even after a cut. A
// compressed layer stays compressed, even if the source declares its compression as the encoding.
func TestCompressed(t *testing.T) {
	content := compressed(random(5 * unit))
	blob := registry.Descriptor{Digest: reference.DigestOf(content), Size: int64(len(content))}
	as := func(changes ...func(*registrytest.Answer)) func(*http.Request, *registrytest.Answer) {
		return func(_ *http.Request, a *registrytest.Answer) {
			if a.Status == http.StatusOK {
				a.Header.Set("Content-Encoding", "gzip")
				all(changes...)(a)
			}
		}
	}
	packed := func(a *registrytest.Answer) { a.Body = compressed(a.Body) }
	half := func(a *registrytest.Answer) { a.Body = a.Body[:3*unit] }
	for name, test := range map[string]struct {
		answers []func(*http.Request, *registrytest.Answer)
		gets    int
	}{
		"declared":                  {answers: []func(*http.Request, *registrytest.Answer){as()}, gets: 1},
		"declared, of unknown size": {answers: []func(*http.Request, *registrytest.Answer){as(chunked)}, gets: 2},
		"compressed":                {answers: []func(*http.Request, *registrytest.Answer){as(packed, chunked)}, gets: 1},
		"cut":                       {answers: []func(*http.Request, *registrytest.Answer){as(packed, half, chunked), as(packed, chunked)}, gets: 2},
	} {
		p := newPair(t, registrytest.WithoutRanges())
		_, err := p.from.PushBlob(repository, content)
		require.NoError(t, err)
		last := len(test.answers) - 1
		for _, change := range test.answers[:last] {
			p.from.Inject(registrytest.Fault{Match: gets, Change: change, Times: 1})
		}
		p.from.Inject(registrytest.Fault{Match: gets, Change: test.answers[last]})
		require.NoError(t, p.Send(t.Context(), p.source(), p.destination("a"), blob), name)
		p.holds(t, "a", blob, content)
		require.Equal(t, test.gets, p.from.Count(gets), name)
	}
}

func compressed(body []byte) []byte {
	var shorter bytes.Buffer
	w := gzip.NewWriter(&shorter)
	_, _ = w.Write(body) // never returns an error
	_ = w.Close()
	return shorter.Bytes()
}

func chunked(a *registrytest.Answer) {
	a.Header.Set("Transfer-Encoding", "chunked")
}

// allowing returns Blobs that may use the pair's registries and other hosts without TLS.
func allowing(p *pair, hosts ...string) *transfer.Blobs {
	return transfer.New(registry.NewClient(registry.Options{Insecure: append(hosts, p.from.Host(), p.to.Host()), Keychain: login{}}))
}
