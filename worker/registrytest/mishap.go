package registrytest

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Mishap is a fault that can happen to any request.
type Mishap struct {
	Name  string
	Fault Fault
}

// mishaps are what a network, a proxy, a captive portal or a broken registry may do to a request.
var mishaps = []Mishap{
	{"reset", Fault{Reset: true}},
	{"cut", Fault{TruncateBody: true}},
	{"cut upload", Fault{CutUpload: 7}},
	{"lost answer", Fault{Lose: true}},
	{"hang", Fault{Hang: true}},
	{"hang after the headers", Fault{Drip: make(chan int)}},
	{"500", Fault{Status: 500}},
	{"503", Fault{Status: 503, Header: http.Header{"Retry-After": {"1"}}}},
	{"502", Fault{Status: 502, Body: "<html><title>Bad Gateway</title></html>"}},
	{"429", Fault{Status: 429}},
	{"429 until a date", Fault{Status: 429, Header: http.Header{"Retry-After": {"Fri, 31 Dec 1999 23:59:59 GMT"}}}},
	{"400", Fault{Status: 400}},
	{"401", Fault{Status: 401}},
	{"403", Fault{Status: 403}},
	{"404", Fault{Status: 404}},
	{"405", Fault{Status: 405}},
	{"410", Fault{Status: 410}},
	{"411", Fault{Status: 411}},
	{"413", Fault{Status: 413}},
	{"415", Fault{Status: 415}},
	{"416", Fault{Status: 416}},
	{"501", Fault{Status: 501}},
	{"200 with a page", Fault{Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html><title>Welcome</title></html>"}},
	{"200 with nothing", Fault{Status: 200}},
	{"200 with JSON", Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: "{}"}},
	{"201", Fault{Status: 201}},
	{"202", Fault{Status: 202}},
	{"204", Fault{Status: 204}},
	{"206", Fault{Status: 206, Body: "x"}},
	{"a redirect without a target", Fault{Status: 307}},
	{"a redirect to nowhere", Fault{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}},
	{"a redirect to itself", changing(func(req *http.Request, a *Answer) {
		a.Status = http.StatusTemporaryRedirect
		a.Header.Set("Location", req.URL.RequestURI())
	})},
	{"few headers", changing(func(_ *http.Request, a *Answer) { // a list without a link would have another end
		for _, name := range []string{"Docker-Content-Digest", "Etag", "Location", "Range", "Content-Type"} {
			a.Header.Del(name)
		}
	})},
	{"a receipt of another digest", changing(func(req *http.Request, a *Answer) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead { // only the registry can know the digest of a tag
			a.Header.Set("Docker-Content-Digest", digest.FromString("another").String())
		}
	})},
	{"another location", changing(func(_ *http.Request, a *Answer) { a.Header.Set("Location", "/v2/other/blobs/uploads/x") })},
	{"other content", spoiling(func(_ *http.Request, a *Answer) {
		for i := range a.Body {
			a.Body[i] ^= 1
		}
	})},
	{"a byte less", spoiling(func(_ *http.Request, a *Answer) { a.Body = a.Body[min(1, len(a.Body)):] })},
	{"a byte more", spoiling(func(_ *http.Request, a *Answer) { a.Body = append(a.Body, 0) })},
	{"a byte more, of unknown length", spoiling(func(_ *http.Request, a *Answer) {
		a.Header.Set("Transfer-Encoding", "chunked")
		a.Body = append(a.Body, 0)
	})},
	{"compressed", changing(func(_ *http.Request, a *Answer) {
		a.Header.Set("Content-Encoding", "gzip")
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(a.Body) // it always can
		_ = w.Close()
		a.Body = packed.Bytes()
	})},
}

// spoiling changes content, except that of the referrers API: a registry that answers something
// else there counts as one without it.
func spoiling(change func(*http.Request, *Answer)) Fault {
	return changing(func(req *http.Request, a *Answer) {
		if !strings.Contains(req.URL.Path, "/referrers/") {
			change(req, a)
		}
	})
}

func changing(change func(*http.Request, *Answer)) Fault { return Fault{Change: change} }

// Step is a mishap of the request with a number, counted from 1, and of all after it if Onward
// is set.
type Step struct {
	Mishap
	Number int
	Onward bool
}

// String returns the step's name.
func (s Step) String() string {
	if s.Onward {
		return fmt.Sprintf("%s from request %d on", s.Name, s.Number)
	}
	return fmt.Sprintf("%s at request %d", s.Name, s.Number)
}

// Steps returns all steps of so many requests.
func Steps(requests int) (steps []Step) {
	for number := range requests {
		for _, m := range mishaps {
			steps = append(steps, Step{m, number + 1, false}, Step{m, number + 1, true})
		}
	}
	return steps
}

// Sample is how many steps a test takes, and which.
type Sample struct {
	n    *int
	seed *uint64
}

// NewSample returns a sample of n steps, and defines the flags that set another one.
func NewSample(n int) Sample {
	return Sample{
		n:    flag.Int("steps", n, "how many steps of TestEveryStep go wrong; 0: all of them"),
		seed: flag.Uint64("steps.seed", 0, "which ones; 0: others each time"),
	}
}

// Some returns a sample of all in random order. The seed that chose it is logged.
func Some[T any](t testing.TB, all []T, s Sample) []T {
	t.Helper()
	n, seed := *s.n, *s.seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-steps.seed=%d chooses the same steps", seed)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if n > 0 {
		all = all[:min(n, len(all))]
	}
	return all
}

// Take lets the step happen. The returned function ends it.
func (r *Registry) Take(s Step) (remove func()) {
	var count atomic.Int64
	s.Fault.Match = func(Request) bool {
		n := int(count.Add(1))
		return n == s.Number || s.Onward && n > s.Number
	}
	return r.Inject(s.Fault)
}
