package listing

import (
	"net/http"
	"strconv"
	"time"
)

const (
	// maxRetryAfter is the longest wait an API can impose: one whose clock or
	// header is wrong must not close itself for a day.
	maxRetryAfter = time.Hour

	// earliestUnixTime (September 2001) is where a number stops being seconds
	// to wait, which would be 31 years, and is a point in time instead.
	earliestUnixTime = 1_000_000_000
)

// waitHeaders are where a refusal says how long to wait, the best first.
// Docker Hub documents Retry-After, called it X-Retry-After before, and tells
// X-RateLimit-Reset with every answer (docs.docker.com/reference/api/hub/latest,
// "Rate Limiting").
var waitHeaders = []string{"Retry-After", "X-Retry-After", "X-RateLimit-Reset"}

// retryAfter is how long to wait after a refusal received at now, 0 where it
// does not say.
func retryAfter(header http.Header, now time.Time) time.Duration {
	for _, name := range waitHeaders {
		if wait := parseWait(header.Get(name), now); wait > 0 {
			return wait
		}
	}
	return 0
}

// parseWait reads the two forms of RFC 9110 section 10.2.3, seconds and HTTP
// date, and unix time, all of which have been seen. What is absent, in the past
// or unreadable is 0; what is longer than an hour is an hour.
func parseWait(value string, now time.Time) time.Duration {
	const longest = int64(maxRetryAfter / time.Second)
	var wait time.Duration
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		if seconds >= earliestUnixTime {
			seconds -= now.Unix()
		}
		wait = time.Duration(min(max(seconds, 0), longest)) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
