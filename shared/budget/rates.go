package budget

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// Rates are the request rates of a registry. The zero value has none.
type Rates struct{ zones map[Kind]zone }

// ErrRates is returned by ParseRates.
var ErrRates = errors.New("expected quay.io, or rates such as api:10/1s+20;tags:5/1s;manifests:50/1s+10;other:60/1s")

// kindsOf are the kinds of requests by their names in Rates.
var kindsOf = map[string][]Kind{
	"api": {API}, "tags": {Tags}, "manifests": {Manifest, Pull, Blob}, "other": {Other},
}

// ParseRates reads the rates of a registry: kind:requests/window, and +burst for that many more
// at once, separated by semicolons. The rate of manifests includes blobs, as Quay counts them.
// All workers share these rates. quay.io means its documented rates, which count HTTP/2 by
// connection. The error wraps ErrRates and names the expected form.
func ParseRates(text string) (Rates, error) {
	text = strings.TrimSpace(text)
	if strings.EqualFold(text, quay) {
		return Rates{documented[quay]}, nil
	}
	zones := map[Kind]zone{}
	for item := range strings.SplitSeq(text, ";") {
		found, expected := parseRate(strings.TrimSpace(item))
		for kind := range found {
			if _, twice := zones[kind]; twice {
				expected = "one rate for each kind"
			}
		}
		if expected != "" {
			return Rates{}, fmt.Errorf("%w: %q: expected %s", ErrRates, item, expected)
		}
		maps.Copy(zones, found)
	}
	return Rates{zones}, nil
}

// parseRate reads one item. If it is not valid, it returns the expected form.
func parseRate(item string) (zones map[Kind]zone, expected string) {
	name, value, _ := strings.Cut(item, ":")
	kinds := kindsOf[strings.TrimSpace(name)]
	if kinds == nil {
		return nil, "api, tags, manifests or other before a colon"
	}
	limit, burst, hasBurst := strings.Cut(value, "+")
	allowed, expected := parseWindow(limit)
	if expected != "" {
		return nil, expected
	}
	rate := Rate{Rate: allowed.rate()}
	if hasBurst {
		var err error
		if rate.Burst, err = strconv.Atoi(strings.TrimSpace(burst)); err != nil || rate.Burst < 0 || rate.Burst > maxRequests {
			return nil, fmt.Sprintf("a number of requests from 0 to %d after the +", maxRequests)
		}
	}
	zones = map[Kind]zone{}
	for _, kind := range kinds {
		zones[kind] = zone{counted: kinds[0], address: rate}
	}
	return zones, ""
}

// SetRates makes this process keep the rates of a registry, in place of those of its
// documentation.
func (s *Store) SetRates(registry string, rates Rates) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rates[registry] = rates
}

// zones returns how a registry counts requests, if it is known.
func (s *Store) zones(registry string) map[Kind]zone {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if rates, set := s.rates[registry]; set {
		return rates.zones
	}
	return documented[registry]
}
