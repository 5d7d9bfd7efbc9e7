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

// refusedRedirect is the error for a redirect that is not followed. A retry cannot avoid it.
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

// network sends the requests for a list. The first request goes to MIRROR_SOURCE_URL. It refuses a
// redirect to an address that only this machine or its cloud can reach, because such an address may
// serve secrets, and an attacker may have written the redirect.
type network struct {
	first   *http.Transport
	direct  *http.Transport // for redirects; checks each address before it connects
	proxied *http.Transport // for redirects through a proxy, which alone knows the address
	proxy   func(*http.Request) (*url.URL, error)
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)

	began string // scope of the address of the first request
}

// These are the settings of the dialer of http.DefaultTransport.
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
	// A reused connection would not be checked again.
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

// noteScope returns the first request with a trace that records the scope of its address.
func (n *network) noteScope(req *http.Request) *http.Request {
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if at, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil {
				n.began = scopeOf(at.Addr())
			}
		},
	}))
}

// origin returns the URL of the first request.
func origin(req *http.Request) *url.URL {
	for req.Response != nil {
		req = req.Response.Request
	}
	return req.URL
}

// hop is a redirect: its target, and the URL and scope of the first request.
type hop struct {
	to, from *url.URL
	began    string
}

// sameHost reports whether the target is on the host of the first request.
func (h hop) sameHost() bool { return h.to.Scheme == h.from.Scheme && h.to.Host == h.from.Host }

type hopKey struct{}

// inspect refuses connections to addresses that are forbidden for a redirect.
func inspect(ctx context.Context, _, address string, _ syscall.RawConn) error {
	hop, redirected := ctx.Value(hopKey{}).(hop)
	at, err := netip.ParseAddrPort(address)
	if err != nil || !redirected {
		return err
	}
	return hop.check(at.Addr())
}

// inspectName checks the name and the known addresses of a host to which a proxy connects.
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
	// A failed look-up is ignored: the proxy may know hosts that this machine does not.
	addresses, _ := n.lookup(ctx, host)
	for _, at := range addresses {
		if err := hop.check(at); err != nil {
			return err
		}
	}
	return nil
}

// check refuses an address with a scope. It permits one of the same host and scope as the first request,
// and a loopback address if MIRROR_SOURCE_URL is an http URL of this machine.
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

// isLocal reports whether a name always means this machine (RFC 6761).
func isLocal(host string) bool { return host == "localhost" || strings.HasSuffix(host, ".localhost") }

// endsInNumber reports whether some programs read a host as an IPv4 address and others as a name, as
// 2130706433 or 0x7f.1 (URL Standard, "ends in a number").
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	digits := strings.TrimPrefix(last, "0x")
	hex := len(digits) < len(last)
	return last != "" && !strings.ContainsFunc(digits, func(r rune) bool {
		return !(r >= '0' && r <= '9' || hex && r >= 'a' && r <= 'f')
	})
}

// The scopes of addresses that are forbidden for a redirect.
const (
	loopbackScope  = "a loopback address"
	linkLocalScope = "a link-local address"
	metadataScope  = "an address of a cloud's metadata"
)

// metadata are the addresses from which clouds serve credentials to machines.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.169.254/32"),     // nearly all
	netip.MustParsePrefix("169.254.170.0/24"),       // AWS: tasks of ECS and pods of EKS
	netip.MustParsePrefix("fd00:ec2::/32"),          // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),       // Google
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure
	netip.MustParsePrefix("100.100.100.200/32"),     // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),         // Oracle
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // Oracle
	netip.MustParsePrefix("fe80::a9fe:a9fe/128"),    // OpenStack
	netip.MustParsePrefix("169.254.42.42/32"),       // Scaleway
	netip.MustParsePrefix("fd00:42::42/128"),        // Scaleway
}

// metadataNames are names of these addresses.
var metadataNames = []string{"metadata", "metadata.goog", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"}

var (
	// thisNetwork is this machine to most systems (RFC 1122, 3.2.1.3).
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")

	// Prefixes of IPv6 addresses that contain an IPv4 address. sixToFour has it in the third to sixth
	// byte, the others in the last four bytes.
	compatible   = netip.MustParsePrefix("::/96")          // RFC 4291, 2.5.5.1
	translated   = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	translatedTo = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour    = netip.MustParsePrefix("2002::/16")      // RFC 3056
)

// scopeOf returns the scope of an address, or "" if a redirect may lead to it.
func scopeOf(at netip.Addr) string {
	at = at.Unmap().WithZone("")
	for _, prefix := range metadata {
		if prefix.Contains(at) {
			return metadataScope
		}
	}
	switch {
	case at.IsLoopback(), at.IsUnspecified(), thisNetwork.Contains(at):
		return loopbackScope
	case at.IsLinkLocalUnicast(), at.IsLinkLocalMulticast(), at.IsInterfaceLocalMulticast():
		return linkLocalScope
	case at.Is4():
		return ""
	}
	switch bytes := at.As16(); {
	case compatible.Contains(at), translated.Contains(at), translatedTo.Contains(at):
		return scopeOf(netip.AddrFrom4([4]byte(bytes[12:16])))
	case sixToFour.Contains(at):
		return scopeOf(netip.AddrFrom4([4]byte(bytes[2:6])))
	}
	return ""
}
