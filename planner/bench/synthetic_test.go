package bench

import (
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// endless is a Quay that has so many tags in every repository. It stores nothing: a digest
// is the hash of a repository's and a tag's name, wherever the repository is.
type endless struct {
	tags     int
	requests atomic.Int64
}

// numbered is the format of tags, in which their order is that of their numbers.
const numbered = "1.%06d"

func digestOf(repository, tag string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(strings.TrimPrefix(repository, "mirror/")+":"+tag)))
}

func (e *endless) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	e.requests.Add(1)
	path, query := req.URL.Path, req.URL.Query()
	if repository, ok := cutAround(path, "/api/v1/repository/", "/tag/"); ok {
		e.page(w, repository, query)
		return
	}
	if repository, ok := cutAround(path, "/v2/", "/tags/list"); ok {
		e.list(w, repository, query)
		return
	}
	if name, tag, ok := strings.Cut(strings.TrimPrefix(path, "/v2/"), "/manifests/"); ok && req.Method == http.MethodHead {
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		w.Header().Set("Content-Length", "1000")
		w.Header().Set("Docker-Content-Digest", digestOf(name, tag))
		return
	}
	if path != "/v2/" {
		http.NotFound(w, req)
	}
}

func cutAround(s, prefix, suffix string) (string, bool) {
	s, before := strings.CutPrefix(s, prefix)
	s, after := strings.CutSuffix(s, suffix)
	return s, before && after
}

// page answers as quay.io's API does.
func (e *endless) page(w http.ResponseWriter, repository string, query url.Values) {
	limit, _ := strconv.Atoi(query.Get("limit"))
	page, _ := strconv.Atoi(query.Get("page"))
	first := (max(page, 1) - 1) * limit
	var tags []map[string]any
	for i := first; i < min(first+limit, e.tags); i++ {
		tag := fmt.Sprintf(numbered, i)
		tags = append(tags, map[string]any{
			"name": tag, "manifest_digest": digestOf(repository, tag), "is_manifest_list": true, "reversion": false,
			"start_ts": 1700000000 - i, "last_modified": "Tue, 14 Nov 2023 22:13:20 -0000", "size": nil,
		})
	}
	answer(w, map[string]any{"tags": tags, "page": page, "has_additional": first+limit < e.tags})
}

// list answers tags/list.
func (e *endless) list(w http.ResponseWriter, repository string, query url.Values) {
	names := registrytest.Numbered(numbered, e.tags)
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(names, last)
		if found {
			i++
		}
		names = names[i:]
	}
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n > 0 && n < len(names) {
		names = names[:n]
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?n=%d&last=%s>; rel="next"`, repository, n, names[n-1]))
	}
	answer(w, map[string]any{"name": repository, "tags": names})
}

func answer(w http.ResponseWriter, content any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(content) // the client may be gone
}

// start serves e behind a relay, and returns the certificate.
func (e *endless) start(b *testing.B) (*registrytest.Relay, []byte) {
	b.Helper()
	server := httptest.NewUnstartedServer(e)
	server.EnableHTTP2 = *http2
	server.StartTLS()
	b.Cleanup(server.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return registrytest.NewRelay(b, server.Listener.Addr().String), certificate
}

// endlessHost is a name in the certificate of httptest.
const endlessHost = "example.com"

// BenchmarkManyTags mirrors very many tags that are there already, from one Quay to another.
func BenchmarkManyTags(b *testing.B) {
	for b.Loop() {
		source, destination := &endless{tags: manyTags}, &endless{tags: manyTags}
		w := &world{place: place{name: "Quay without limits", host: endlessHost}}
		var certificate []byte
		w.toSource, certificate = source.start(b)
		w.toDestination, _ = destination.start(b) // httptest has one certificate
		w.toSource.SetRoundTrip(*sourceTrip)
		w.toDestination.SetRoundTrip(*destinationTrip)
		dir := b.TempDir()
		w.environment = reach(b, []string{endlessHost}, w.toSource, write(b, dir, "ca.pem", string(certificate)))
		c := catalogue{
			name:         fmt.Sprintf("%d repositories, %d tags", *manyRepositories, *manyRepositories*manyTags),
			repositories: registrytest.Numbered("bench/app%d", *manyRepositories),
		}
		variables, name, arguments := ours("builtin")(b, w, c, dir)
		variables = append(variables, "QUAY_HOSTS="+endlessHost+","+w.toDestination.Host())
		r := result{World: w.name, Catalogue: c.name, Phase: noop, Program: builtinName}
		r.used = execute(b, longer**limit, slices.Concat(w.environment, variables), name, arguments...)
		r.Source = side{Requests: int(source.requests.Load()), Sent: megabytes(w.toSource.Sent()), Received: megabytes(w.toSource.Received())}
		r.Destination = side{Requests: int(destination.requests.Load()), Sent: megabytes(w.toDestination.Sent()), Received: megabytes(w.toDestination.Received())}
		record(r)
	}
}
