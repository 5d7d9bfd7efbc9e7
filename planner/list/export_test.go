package list

import (
	"context"
	"net/netip"
)

// WithLookup returns a fetcher that finds addresses of hosts by other means than DNS.
func (f Fetcher) WithLookup(lookup func(ctx context.Context, host string) ([]netip.Addr, error)) Fetcher {
	f.lookup = lookup
	return f
}

// ScopeOf is what keeps a redirect from an address.
func ScopeOf(at netip.Addr) string { return scopeOf(at) }
