package reference

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	dist "github.com/distribution/reference"
)

// localhost is the one host that needs neither a dot nor a port to be told
// from a path component, as docker has it.
const localhost = "localhost"

// maxHost is the longest host name (RFC 1035, section 2.3.4).
const maxHost = 253

// maxPort is the highest TCP port.
const maxPort = 65535

// domain is the library's own rule, for a whole text.
var domain = regexp.MustCompile(`^(?:` + dist.DomainRegexp.String() + `)$`)

// cutHost takes the host, port included, off a reference by docker's rule: a
// first component is a host if it has a dot or a colon in it or is localhost.
func cutHost(s string) (host, rest string, ok bool) {
	first, rest, slash := strings.Cut(s, "/")
	if slash && (strings.ContainsAny(first, ".:") || strings.EqualFold(first, localhost)) {
		return first, rest, true
	}
	return "", s, false
}

// canonicalHost gives the one name by which a registry is known here.
func canonicalHost(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return DockerHub
	}
	return host
}

// explainHost says why a host with an optional port can't be one, or nothing.
func explainHost(hostport string) string {
	host, port, hasPort := cutPort(hostport)
	if hasPort && !validPort(port) {
		return fmt.Sprintf("port %s is invalid, expected a number from 1 to %d", Quote(port), maxPort)
	}
	if !validHost(host) {
		return Quote(host) + " is not a host name"
	}
	return ""
}

func cutPort(hostport string) (host, port string, ok bool) {
	if strings.HasPrefix(hostport, "[") {
		address, after, _ := strings.Cut(hostport, "]")
		if after == "" {
			return hostport, "", false
		}
		return address + "]", strings.TrimPrefix(after, ":"), true
	}
	return strings.Cut(hostport, ":")
}

// validPort refuses leading zeros too: one port has one spelling.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}

func validHost(host string) bool {
	if len(host) > maxHost || !domain.MatchString(host) {
		return false
	}
	if address, ok := strings.CutPrefix(host, "["); ok {
		ip, err := netip.ParseAddr(strings.TrimSuffix(address, "]"))
		return err == nil && ip.Is6()
	}
	// A last label of digits makes an IPv4 address of the name (RFC 3696,
	// section 2): no top-level domain is a number.
	last := host[strings.LastIndex(host, ".")+1:]
	if strings.Trim(last, "0123456789") == "" {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is4()
	}
	return true
}
