package list

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/osism/skopeo-worker/shared/redact"
)

// refusedRedirect is a redirect to where the operator has not sent us. Another try would
// meet it again.
type refusedRedirect struct {
	to  string // without secrets
	why string
}

func (r *refusedRedirect) Error() string {
	return fmt.Sprintf("redirected to %s, %s: if that is intended, set MIRROR_SOURCE_URL to that URL", r.to, r.why)
}

func refuse(to *url.URL, why string) error {
	return permanent{&refusedRedirect{redact.URL(to.String()), why}}
}

// network sends requests for a list. The first one goes where MIRROR_SOURCE_URL says. A
// redirect does not lead to addresses that only this machine or its cloud can reach: its
// author may be anybody, and what is there was not made for us.
type network struct {
	first   *http.Transport
	direct  *http.Transport // looks at the addresses it connects to
	proxied *http.Transport // cannot: the proxy connects
	proxy   func(*http.Request) (*url.URL, error)
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)

	began string // scope of the address that MIRROR_SOURCE_URL led to
}

// The dialer of http.DefaultTransport.
const (
	dialTimeout = 30 * time.Second
	keepAlive   = 30 * time.Second
)

func (f Fetcher) network() *network {
	base := f.Transport
	if base == nil {
		base = http.DefaultTransport.(*http.Transport)
	}
	n := &network{first: base, direct: base.Clone(), proxied: base.Clone(), proxy: base.Proxy, lookup: f.lookup}
	if n.proxy == nil {
		n.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	if n.lookup == nil {
		n.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive, ControlContext: inspect}
	// A connection that is kept was made for another request.
	n.direct.Proxy, n.direct.DialContext, n.direct.DisableKeepAlives = nil, dialer.DialContext, true
	return n
}

func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := n.proxy(req)
	if err != nil {
		return nil, err
	}
	if req.Response == nil {
		n.began = ""
		if proxy == nil {
			req = n.noteScope(req)
		}
		return n.first.RoundTrip(req)
	}
	hop := hop{to: req.URL, from: origin(req), began: n.began}
	if proxy != nil {
		if err := n.inspectName(req.Context(), hop); err != nil {
			return nil, err
		}
		return n.proxied.RoundTrip(req)
	}
	return n.direct.RoundTrip(req.WithContext(context.WithValue(req.Context(), hopKey{}, hop)))
}

// noteScope returns the first request, which notes where it goes.
func (n *network) noteScope(req *http.Request) *http.Request {
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if at, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil {
				n.began = scopeOf(at.Addr())
			}
		},
	}))
}

// origin is the URL of the first request.
func origin(req *http.Request) *url.URL {
	for req.Response != nil {
		req = req.Response.Request
	}
	return req.URL
}

// hop is where a redirect leads, and where all began.
type hop struct {
	to, from *url.URL
	began    string
}

// sameHost reports whether the request stays on the host that it was meant for.
func (h hop) sameHost() bool { return h.to.Scheme == h.from.Scheme && h.to.Host == h.from.Host }

type hopKey struct{}

// inspect refuses to connect to an address that a redirect must not lead to.
func inspect(ctx context.Context, _, address string, _ syscall.RawConn) error {
	hop, redirected := ctx.Value(hopKey{}).(hop)
	at, err := netip.ParseAddrPort(address)
	if err != nil || !redirected {
		return err
	}
	return hop.check(at.Addr())
}

// inspectName looks at what is known here of a host that a proxy connects to.
func (n *network) inspectName(ctx context.Context, hop hop) error {
	host := strings.ToLower(strings.TrimSuffix(hop.to.Hostname(), "."))
	switch at, err := netip.ParseAddr(host); {
	case hop.sameHost():
		return nil
	case err == nil:
		return hop.check(at)
	case endsInNumber(host), strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }):
		return refuse(hop.to, "which is an IP address in an unusual notation")
	case isLocal(host):
		return hop.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	case slices.Contains(metadataNames, host):
		return hop.check(metadata[0].Addr())
	}
	// The proxy may know hosts that this machine does not.
	addresses, _ := n.lookup(ctx, host)
	for _, at := range addresses {
		if err := hop.check(at); err != nil {
			return err
		}
	}
	return nil
}

// check refuses an address, unless the first request went to one like it on the same
// host, or an http URL that names this machine leads to this machine.
func (h hop) check(at netip.Addr) error {
	scope := scopeOf(at)
	switch {
	case scope == "":
		return nil
	case h.sameHost() && scope == h.began:
		return nil
	case scope == loopbackScope && h.from.Scheme == "http" && namesLoopback(h.from.Hostname()):
		return nil
	}
	return refuse(h.to, fmt.Sprintf("which is %s (%s)", scope, at.Unmap().WithZone("")))
}

func namesLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	at, err := netip.ParseAddr(host)
	return isLocal(host) || err == nil && scopeOf(at) == loopbackScope
}

// isLocal reports whether a name is this machine by its spelling (RFC 6761).
func isLocal(host string) bool { return host == "localhost" || strings.HasSuffix(host, ".localhost") }

// endsInNumber reports whether some programs take a host for an IPv4 address, and others
// do not: 2130706433, 0x7f.1 (URL Standard, "ends in a number").
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	digits := strings.TrimPrefix(last, "0x")
	hex := len(digits) < len(last)
	return last != "" && !strings.ContainsFunc(digits, func(r rune) bool {
		return !(r >= '0' && r <= '9' || hex && r >= 'a' && r <= 'f')
	})
}
