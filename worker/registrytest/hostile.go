package registrytest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
)

// liar is a repository that lists invalid tags.
type liar struct {
	digest string
	names  []string
}

// Lie makes a repository list additional names in all its APIs. They may be invalid. Requests
// for one of them are answered with the tag's manifest.
func (r *Registry) Lie(repository, tag string, names ...string) error {
	dgst, err := r.Digest(repository, tag)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.liars[repository] = liar{dgst, names}
	return nil
}

func (r *Registry) liar(repository string) liar {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.liars[repository]
}

// unlie returns the request with the tag's digest instead of a name of Lie.
func (r *Registry) unlie(req *http.Request) *http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	for repository, l := range r.liars {
		name, ok := strings.CutPrefix(req.URL.Path, apiRoot+repository+"/manifests/")
		if ok && slices.Contains(l.names, name) {
			req = req.Clone(req.Context())
			req.URL.Path, req.URL.RawPath = apiRoot+repository+"/manifests/"+l.digest, ""
		}
	}
	return req
}

// lie adds the names to the last page of tags/list.
func (l liar) lie(w http.ResponseWriter, answer func(w http.ResponseWriter)) {
	honest := httptest.NewRecorder()
	answer(honest)
	var page struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	body := honest.Body.Bytes()
	if honest.Code == http.StatusOK && honest.Header().Get("Link") == "" && json.Unmarshal(body, &page) == nil {
		page.Tags = append(page.Tags, l.names...)
		body, _ = json.Marshal(page) // strings only
	}
	for key, values := range honest.Header() {
		if key != "Content-Length" {
			w.Header()[key] = values
		}
	}
	w.WriteHeader(honest.Code)
	_, _ = w.Write(body) // the client may have disconnected
}

// NewFront runs a proxy before a registry until the end of the test. It removes dot segments
// from paths, as nginx does. It returns the proxy's "127.0.0.1:port".
func NewFront(t testing.TB, r *Registry) string {
	t.Helper()
	behind, err := url.Parse(r.URL())
	if err != nil {
		t.Fatalf("front of a registry: %v", err)
	}
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(behind)
		p.Out.Host = p.In.Host // the registry puts it in links
		clean := path.Clean(p.In.URL.Path)
		if strings.HasSuffix(p.In.URL.Path, "/") && clean != "/" {
			clean += "/"
		}
		p.Out.URL.Path, p.Out.URL.RawPath = clean, ""
	}})
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}
