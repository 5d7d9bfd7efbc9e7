// Package retryafter reads from an answer how long a registry asks to wait.
package retryafter

import (
	"net/http"
	"strconv"
	"time"
)

const (
	// Longest is the longest wait that a registry can impose. A wrong clock or header must not
	// close a registry for a day.
	Longest = time.Hour

	// earliestUnixTime is in September 2001. A number from this one on is a point in time. As
	// seconds to wait, it would be 31 years.
	earliestUnixTime = 1_000_000_000
)

// headers state how long to wait, the most reliable first. Docker Hub documents Retry-After, used
// X-Retry-After before, and sends X-RateLimit-Reset with every answer of its API
// (docs.docker.com/reference/api/hub/latest, "Rate Limiting").
var headers = []string{"Retry-After", "X-Retry-After", "X-RateLimit-Reset"}

// In returns how long to wait after an answer that was received at now; 0 if its header does not
// state it. A point in time is compared with the Date of the answer, which is by the same clock, and only
// without that with now.
func In(header http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	for _, name := range headers {
		if wait := Parse(header.Get(name), now); wait > 0 {
			return wait
		}
	}
	return 0
}

// Parse reads the two forms of RFC 9110 section 10.2.3, seconds and HTTP date, and the unix time,
// which Docker Hub has sent. It returns 0 if the value is absent, invalid or in the past, and at
// most an hour.
func Parse(value string, now time.Time) time.Duration {
	const longest = int64(Longest / time.Second)
	var wait time.Duration
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		if seconds >= earliestUnixTime {
			seconds -= now.Unix()
		}
		wait = time.Duration(min(max(seconds, 0), longest)) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), Longest)
}
