package budget

import "time"

// Kind is what a request is for. Registries limit each kind on its own.
type Kind string

// The kinds of requests.
const (
	Pull     Kind = "pull"     // GET of a manifest, which Take is for
	Manifest Kind = "manifest" // HEAD of a manifest
	Tags     Kind = "tags"     // tags/list
	API      Kind = "api"      // the registry's own listing: quay.io/api, hub.docker.com
	Other    Kind = "other"    // referrers, tokens, whatever else
)

// quay is quay.io's name.
const quay = "quay.io"

// documented are the requests a second that registries say they allow an address,
// by kind. Those of quay.io are the zones "light" (50 r/s) and "heavy" (5 r/s) of its
// nginx (github.com/quay/quay, conf/nginx/rate-limiting.conf.jnj); they allow bursts,
// on which we do not rely. Docker Hub's, thousands a minute, are out of reach, and
// its pulls are told by headers.
var documented = map[string]map[Kind]float64{
	quay: {Manifest: 50, Tags: 5, API: 5},
}

// countedAs is the kind as the registry counts it: quay.io sees a manifest, whoever
// asks for it and how.
func countedAs(registry string, kind Kind) Kind {
	if registry == quay && kind == Pull {
		return Manifest
	}
	return kind
}

// headroom is the part of a documented rate that we use: requests do not all take
// the same time to arrive, and so come closer together than they were sent.
const headroom = 0.9

// rate is how many requests of the kind a second the registry bears, where that is
// known: the lowest of what is documented, what was found, and that of probing.
func (s *Store) rate(registry string, kind Kind) (float64, bool) {
	rate, limited := documentedRate(registry, kind)
	if found, ok := s.foundRate(registry, kind); ok && (!limited || found < rate) {
		rate, limited = found, true
	}
	if s.probing(registry, kind) && (!limited || probeRate < rate) {
		rate, limited = probeRate, true
	}
	return rate, limited
}

// probeRate is that of a registry which has been reopened and has not answered yet:
// should it refuse again, one request has asked in vain and not all that wait.
const probeRate = 1.0

// documentedRate is what we use of the documented rate, where there is one.
func documentedRate(registry string, kind Kind) (float64, bool) {
	rate, ok := documented[registry][countedAs(registry, kind)]
	return rate * headroom, ok
}

// interval is the time between two requests.
func interval(rate float64) time.Duration { return time.Duration(float64(time.Second) / rate) }

// asLimit tells a rate as people do.
func asLimit(rate float64) Limit {
	if rate < 1 {
		return Limit{Requests: 1, Window: interval(rate).Round(time.Second)}
	}
	return Limit{Requests: int(rate), Window: time.Second}
}
