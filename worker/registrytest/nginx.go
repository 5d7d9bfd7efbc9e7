package registrytest

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// WithHTTP2 serves HTTP/2 as well as HTTP/1.1, over TLS. Faults that take over the
// connection then only end the request. It takes WithTLS.
func WithHTTP2() Option { return func(s *settings) { s.http2 = true } }

// WithQuayRates limits requests as quay.io's nginx does (github.com/quay/quay,
// conf/nginx/rate-limiting.conf.jnj and server-base.conf.jnj): by address over HTTP/1.1, and
// over HTTP/2 by connection, with ten times the rate. Requests for tokens are counted by their
// Authorization header; those without one are not. Too many are answered with an HTML 429
// without Retry-After.
func WithQuayRates() Option {
	return func(s *settings) { s.nginx = &nginx{excess: map[counter]*excess{}} }
}

// zone is an nginx limit_req_zone. The requests of all kinds in it are counted together.
type zone string

// requestRate is a limit_req with nodelay: rate requests a second, after burst at once in
// addition to the first one.
type requestRate struct {
	rate  float64
	burst int
}

// location is a location of quay.io's nginx.
type location struct {
	zone         zone
	http1, http2 requestRate
}

// The locations of quay.io.
var (
	quayAPI      = location{"api", requestRate{5, 25}, requestRate{50, 100}}
	quayTags     = location{"tags", requestRate{5, 2}, requestRate{50, 2}}
	quayManifest = location{"heavy", requestRate{50, 10}, requestRate{500, 50}}
	quayBlob     = location{"heavy", requestRate{50, 50}, requestRate{500, 100}}
	quayToken    = location{"auth", requestRate{120, 2}, requestRate{120, 2}}
	quayRest     = location{"rest", requestRate{60, 20}, requestRate{600, 80}}

	quayLocations = map[Kind]location{
		KindBulkList: quayAPI, KindTags: quayTags, KindToken: quayToken,
		KindManifestHead: quayManifest, KindManifestGet: quayManifest, KindManifestPut: quayManifest,
		KindBlobHead: quayBlob, KindBlobGet: quayBlob, KindBlobUpload: quayBlob, KindBlobMount: quayBlob,
	}
)

// counter is a key of a zone. HTTP/1.1 and HTTP/2 have zones of their own.
type counter struct {
	zone  zone
	http2 bool
	by    string
}

// excess is how many requests are above the rate, as nginx counts them
// (ngx_http_limit_req_module).
type excess struct {
	requests float64
	last     time.Time
}

// nginx counts requests.
type nginx struct {
	mu     sync.Mutex
	excess map[counter]*excess
}

func (n *nginx) refuses(w http.ResponseWriter, req *http.Request, request Request) bool {
	at, known := quayLocations[request.Kind]
	if !known {
		at = quayRest
	}
	http2 := req.ProtoMajor == 2
	allowed, by := at.http1, addressOf(req)
	if http2 {
		allowed, by = at.http2, connectionOf(req)
	}
	if at.zone == quayToken.zone {
		http2, by = false, req.Header.Get("Authorization")
	}
	if by == "" || n.admits(counter{at.zone, http2, by}, allowed, time.Now()) {
		return false
	}
	refuseRequest(w)
	return true
}

// admits counts a request, unless it is one too many.
func (n *nginx) admits(c counter, allowed requestRate, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.excess[c]
	if e == nil {
		n.excess[c] = &excess{last: now}
		return true
	}
	above := max(0, e.requests-allowed.rate*now.Sub(e.last).Seconds()+1)
	if above > float64(allowed.burst) {
		return false
	}
	e.requests, e.last = above, now
	return true
}

// addressOf returns the address of the client, without its port.
func addressOf(req *http.Request) string {
	host, _, _ := net.SplitHostPort(req.RemoteAddr)
	return host
}

// connectionOf returns the number of the request's connection.
func connectionOf(req *http.Request) string {
	number, _ := req.Context().Value(connectionKey{}).(uint64)
	return strconv.FormatUint(number, 10)
}

// connectionKey is the context key of the number of a request's connection.
type connectionKey struct{}

// connections numbers connections.
type connections struct{ last atomic.Uint64 }

func (c *connections) number(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, c.last.Add(1))
}
