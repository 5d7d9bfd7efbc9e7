package registrytest

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// got are the references that were answered to GET.
type got struct{ references sync.Map }

func (g *got) key(request Request) string { return request.Repository + "@" + request.Reference }

// denies tells whether a HEAD is answered as if there were no such manifest.
func (g *got) denies(request Request) bool {
	if request.Kind != KindManifestHead {
		return false
	}
	_, known := g.references.Load(g.key(request))
	return !known
}

func (g *got) answered(request Request, status int) {
	if request.Kind == KindManifestGet && status == http.StatusOK {
		g.references.Store(g.key(request), true)
	}
}

// refuses tells whether a manifest is refused for a media type in it. It leaves the
// request as it was.
func (s *settings) refuses(req *http.Request) bool {
	if s.refusedType == "" {
		return false
	}
	body, _ := io.ReadAll(req.Body) // a client that is gone gets no answer
	req.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.Contains(body, []byte(`"`+s.refusedType+`"`))
}

// shortPage asks for at most limit tags, whatever the client asked for.
func shortPage(req *http.Request, limit int) *http.Request {
	query := req.URL.Query()
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n <= limit {
		return req
	}
	query.Set("n", strconv.Itoa(limit))
	short := req.Clone(req.Context())
	short.URL.RawQuery = query.Encode()
	return short
}
