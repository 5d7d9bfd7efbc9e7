package budget

import (
	"math"
	"time"
)

// Kind is the purpose of a request. Registries limit each kind separately.
type Kind string

// The kinds of requests.
const (
	Pull           Kind = "pull"     // GET of a manifest; needs a token of Take
	Manifest       Kind = "manifest" // any other request for a manifest
	Blob           Kind = "blob"     // any request for a blob
	Tags           Kind = "tags"     // tags/list
	API            Kind = "api"      // the registry's own listing: quay.io/api, hub.docker.com
	Login          Kind = "login"    // a request for a token, with credentials
	AnonymousLogin Kind = "token"    // a request for a token, without credentials
	Other          Kind = "other"    // /v2/, referrers and the rest
	All            Kind = "all"      // all of them together, at a registry whose limits are unknown
)

// Protocol is the version of HTTP of the requests to a registry.
type Protocol int

// The protocols.
const (
	HTTP1 Protocol = iota // also if it is not known yet
	HTTP2
)

// Rate is how many requests a registry allows: Rate a second, and Burst at once in addition
// to the first one. It is that of nginx's limit_req with nodelay.
type Rate struct {
	Rate  float64
	Burst int

	grows   growing
	horizon time.Duration // how far ahead slots are reserved; 0: as far as a request waits
}

// zone is how a registry counts requests of a kind.
type zone struct {
	counted    Kind // all kinds with the same one are counted together
	address    Rate // of all requests from an address
	connection Rate // of a connection over HTTP/2; the zero Rate: by address, too
}

// quay is quay.io's name.
const quay = "quay.io"

// documented is how registries count requests according to their documentation. quay.io's
// are the zones of its nginx (github.com/quay/quay, conf/nginx/rate-limiting.conf.jnj and
// server-base.conf.jnj): it counts HTTP/2 by connection, with ten times the rate. Docker Hub
// allows thousands a minute, which no fleet reaches, and limits pulls by headers.
var documented = map[string]map[Kind]zone{
	quay: {
		API:      {API, Rate{Rate: 5, Burst: 25}, Rate{Rate: 50, Burst: 100}},
		Tags:     {Tags, Rate{Rate: 5, Burst: 2}, Rate{Rate: 50, Burst: 2}},
		Pull:     {Manifest, Rate{Rate: 50, Burst: 10}, Rate{Rate: 500, Burst: 50}},
		Manifest: {Manifest, Rate{Rate: 50, Burst: 10}, Rate{Rate: 500, Burst: 50}},
		Blob:     {Manifest, Rate{Rate: 50, Burst: 50}, Rate{Rate: 500, Burst: 100}},
		Login:    {Login, Rate{Rate: 120, Burst: 2}, Rate{}}, // counted by credentials
		Other:    {Other, Rate{Rate: 60, Burst: 20}, Rate{Rate: 600, Burst: 80}},
	},
}

const (
	// headroom is the part of a documented rate that is used.
	headroom = 0.9
	// Requests do not all take the same time to arrive, so some arrive closer together than
	// they were sent. Requests of several machines differ by fleetJitter, which is a round
	// trip to another continent. Those of one connection arrive in order, and differ by
	// connectionJitter.
	fleetJitter      = 250 * time.Millisecond
	connectionJitter = 100 * time.Millisecond
	// longestBurst bounds the bursts of a fleet; see reservation.start.
	longestBurst = 2*maxWait - time.Second
)

// used returns the part of a documented rate that is used so that requests that differ by
// the jitter do not exceed it.
func (r Rate) used(jitter time.Duration) Rate {
	used := Rate{Rate: r.Rate * headroom}
	if most := float64(r.Burst) / connectionJitter.Seconds(); r.Burst > 0 {
		used.Rate = min(used.Rate, most)
	}
	spare := float64(r.Burst) - used.Rate*jitter.Seconds()
	used.Burst = int(max(0, math.Floor(spare)))
	return used
}

// forFleet returns the part of a rate that all workers use together.
func (r Rate) forFleet() Rate {
	used := r.used(fleetJitter)
	used.Burst = min(used.Burst, int(longestBurst/used.interval()))
	return used
}

// interval returns the time between two requests.
func (r Rate) interval() time.Duration { return interval(r.Rate) }

// lead returns how much earlier than evenly spaced a request may be sent.
func (r Rate) lead() time.Duration { return time.Duration(r.Burst) * r.interval() }

// interval returns the time between two requests.
func interval(rate float64) time.Duration { return time.Duration(float64(time.Second) / rate) }

// line identifies requests that are counted together: by their registry, the kind that it counts
// them as and, for requests that it counts by connection, the protocol.
type line struct {
	registry string
	counted  Kind
	protocol Protocol // HTTP1: by address
}

// line returns the line of a request, and the documented rate that is used of it.
func (s *Store) line(registry string, kind Kind, protocol Protocol) (line, Rate, bool) {
	zones := s.zones(registry)
	z, known := zones[kind]
	switch {
	case !known:
		return line{registry, kind, HTTP1}, Rate{}, false
	case protocol == HTTP2 && z.connection.Rate > 0:
		return line{registry, z.counted, HTTP2}, z.connection.used(connectionJitter), true
	}
	// A lane gives its slots in the order in which they were asked for. A kind with a longer
	// burst would be sent before earlier slots of the others, which would then be refused.
	shared := z.address
	for _, other := range zones {
		if other.counted == z.counted {
			shared.Burst = min(shared.Burst, other.address.Burst)
		}
	}
	return line{registry, z.counted, HTTP1}, shared.forFleet(), true
}

// counted returns the kind under which a registry counts requests of a kind.
func (s *Store) counted(registry string, kind Kind) Kind {
	l, _, _ := s.line(registry, kind, HTTP1)
	return l.counted
}

// key returns the name of the line in subjects and keys.
func (l line) key() string {
	key := token(l.registry) + "." + string(l.counted)
	if l.protocol == HTTP2 {
		key += ".http2"
	}
	return key
}
