package budget

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Limit allows so many requests in any window of this length.
type Limit struct {
	Requests int           `json:"requests"`
	Window   time.Duration `json:"window"`
}

// The limits that make sense. Registries count in seconds; nats-server keeps
// deduplication windows of 100 ms and more; and the longest window in use is
// Docker Hub's of 6 h.
const (
	maxRequests = 1_000_000
	minWindow   = time.Second
	maxWindow   = 7 * 24 * time.Hour
)

func (l Limit) valid() bool {
	return l.Requests >= 1 && l.Requests <= maxRequests && l.Window >= minWindow && l.Window <= maxWindow
}

// rate is in requests a second.
func (l Limit) rate() float64 { return float64(l.Requests) / l.Window.Seconds() }

// String is the limit as RATE_LIMITS has it, "100/6h".
func (l Limit) String() string { return strconv.Itoa(l.Requests) + "/" + short(l.Window) }

// short leaves the zero minutes and seconds out that time.Duration writes.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ErrLimit is returned by ParseLimits.
var ErrLimit = errors.New("expected limits such as docker.io=100/6h,quay.io=20/1s")

// ParseLimits reads RATE_LIMITS: registry=requests/window, several separated by
// commas. Every name of a registry stands for its canonical one. Its error wraps
// ErrLimit, names each bad item and says what was expected there.
func ParseLimits(text string) (map[string]Limit, error) {
	limits := map[string]Limit{}
	var bad []error
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		registry, limit, expected := parseLimit(item)
		if _, twice := limits[registry]; twice {
			expected = "one limit for " + registry
		}
		if expected != "" {
			bad = append(bad, fmt.Errorf("%q: expected %s", item, expected))
			continue
		}
		limits[registry] = limit
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrLimit, errors.Join(bad...))
	}
	return limits, nil
}

// anyPath makes a reference of a host name, to have it checked.
const anyPath = "any/path"

// parseLimit reads one item, or tells what it should have been.
func parseLimit(item string) (registry string, limit Limit, expected string) {
	host, value, _ := strings.Cut(item, "=")
	requests, window, slash := strings.Cut(value, "/")
	if !slash {
		return "", Limit{}, "registry=requests/window, such as docker.io=100/6h"
	}
	// A bare word would be taken for a repository of Docker Hub.
	host = strings.TrimSpace(host)
	r, err := reference.Parse(host + "/" + anyPath)
	if err != nil || r.Repository.Path() != anyPath {
		return "", Limit{}, "the host name of a registry before the =, such as docker.io"
	}
	if limit.Requests, err = strconv.Atoi(strings.TrimSpace(requests)); err != nil || limit.Requests < 1 || limit.Requests > maxRequests {
		return "", Limit{}, fmt.Sprintf("a number of requests from 1 to %d before the /", maxRequests)
	}
	if limit.Window, err = time.ParseDuration(strings.TrimSpace(window)); err != nil || !limit.valid() {
		return "", Limit{}, fmt.Sprintf("a window from %s to %s after the /, such as 6h, 90m or 10s", short(minWindow), short(maxWindow))
	}
	return r.Repository.Registry(), limit, ""
}

// Quota is what a registry says of its limit, and of what is left of it.
type Quota struct {
	Limit     Limit
	Remaining int
}

// Docker Hub's headers, on HEAD and GET of a manifest
// (docs.docker.com/docker-hub/usage/pulls, "View pull rate and limit").
const (
	headerLimit     = "ratelimit-limit"     // 100;w=21600
	headerRemaining = "ratelimit-remaining" // 76;w=21600
)

var quotaLimit = regexp.MustCompile(`^\s*(\d+)\s*;\s*w=(\d+)\s*$`)

// ParseQuota reads Docker Hub's headers. It reports false where they are absent,
// which means unlimited, or make no sense. Where what is left is not told, all is.
func ParseQuota(h http.Header) (Quota, bool) {
	found := quotaLimit.FindStringSubmatch(h.Get(headerLimit))
	if found == nil {
		return Quota{}, false
	}
	requests, errRequests := strconv.Atoi(found[1])
	seconds, errSeconds := strconv.Atoi(found[2])
	if errRequests != nil || errSeconds != nil || seconds > int(maxWindow/time.Second) {
		return Quota{}, false
	}
	q := Quota{Limit: Limit{Requests: requests, Window: time.Duration(seconds) * time.Second}, Remaining: requests}
	if !q.Limit.valid() {
		return Quota{}, false
	}
	left, _, _ := strings.Cut(h.Get(headerRemaining), ";")
	if remaining, err := strconv.Atoi(strings.TrimSpace(left)); err == nil {
		q.Remaining = min(max(remaining, 0), requests)
	}
	return q, true
}
