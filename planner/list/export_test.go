package list

import (
	"context"
	"net/netip"
)

// WithLookup returns a fetcher that looks up hosts with the given function instead of DNS.
func (f Fetcher) WithLookup(lookup func(ctx context.Context, host string) ([]netip.Addr, error)) Fetcher {
	f.lookup = lookup
	return f
}

// ScopeOf exports scopeOf.
func ScopeOf(at netip.Addr) string { return scopeOf(at) }
