package registrytest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
)

// Mishap is a fault that can happen to any request.
type Mishap struct {
	Name  string
	Fault Fault
}

// mishaps are what a network, a proxy, a captive portal or a broken registry makes of a request.
var mishaps = []Mishap{
	{"reset", Fault{Reset: true}},
	{"cut", Fault{TruncateBody: true}},
	{"cut upload", Fault{CutUpload: 7}},
	{"hang", Fault{Hang: true}},
	{"500", Fault{Status: 500}},
	{"503", Fault{Status: 503, Header: http.Header{"Retry-After": {"1"}}}},
	{"429", Fault{Status: 429}},
	{"400", Fault{Status: 400}},
	{"401", Fault{Status: 401}},
	{"403", Fault{Status: 403}},
	{"404", Fault{Status: 404}},
	{"405", Fault{Status: 405}},
	{"413", Fault{Status: 413}},
	{"416", Fault{Status: 416}},
	{"200 with a page", Fault{Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html><title>Welcome</title></html>"}},
	{"200 with nothing", Fault{Status: 200}},
	{"200 with JSON", Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: "{}"}},
	{"201", Fault{Status: 201}},
	{"202", Fault{Status: 202}},
	{"204", Fault{Status: 204}},
	{"206", Fault{Status: 206, Body: "x"}},
	{"a redirect without a target", Fault{Status: 307}},
	{"a redirect to nowhere", Fault{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}},
}

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

// Some returns n of all in random order, or all of them if n is 0. The seed, which is logged,
// chooses them; 0 is another seed each time.
func Some[T any](t testing.TB, all []T, n int, seed uint64) []T {
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with seed %d", seed)
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
