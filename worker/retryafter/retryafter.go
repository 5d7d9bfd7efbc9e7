// Package retryafter reads how long a registry that refuses us wants to be left
// alone.
package retryafter

import (
	"net/http"
	"strconv"
	"time"
)

const (
	// Longest is the longest wait that a registry can impose: one whose clock or
	// header is wrong must not close itself for a day.
	Longest = time.Hour

	// earliestUnixTime (September 2001) is the number from which on it is not seconds
	// to wait, which would be 31 years, and is a point in time instead.
	earliestUnixTime = 1_000_000_000
)

// headers are those in which a refusal says how long to wait, the best first. Docker Hub
// documents Retry-After, called it X-Retry-After before, and sends
// X-RateLimit-Reset with every answer of its API (docs.docker.com/reference/api/
// hub/latest, "Rate Limiting").
var headers = []string{"Retry-After", "X-Retry-After", "X-RateLimit-Reset"}

// In returns how long to wait after an answer received at now, 0 if the header
// does not say.
func In(header http.Header, now time.Time) time.Duration {
	for _, name := range headers {
		if wait := Parse(header.Get(name), now); wait > 0 {
			return wait
		}
	}
	return 0
}

// Parse reads the two forms of RFC 9110 section 10.2.3, seconds and HTTP date, and
// the unix time that Docker Hub has been seen to send. An absent, past or unreadable
// time is 0; a time longer than an hour is an hour.
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
