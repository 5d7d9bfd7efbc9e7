package list

import (
	"net/netip"
)

// The scopes of addresses that nobody else should send us to.
const (
	loopbackScope  = "a loopback address"
	linkLocalScope = "a link-local address"
	metadataScope  = "an address of a cloud's metadata"
)

// metadata are the addresses at which clouds tell machines their credentials.
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

	// Prefixes of IPv6 addresses that hold an IPv4 address: in their last four bytes, or
	// in those after the first two.
	compatible   = netip.MustParsePrefix("::/96")          // RFC 4291, 2.5.5.1
	translated   = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	translatedTo = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour    = netip.MustParsePrefix("2002::/16")      // RFC 3056
)

// scopeOf returns the scope of an address, and nothing where it has none of them.
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
