package registry

import (
	"net/http"
	"strconv"
	"time"
)

const (
	// maxRetryAfter is the longest wait a registry can impose: a registry whose
	// clock or header is wrong must not close itself for a day.
	maxRetryAfter = time.Hour

	// earliestUnixTime (September 2001) is where a number stops being seconds
	// to wait, which would be 31 years, and is a point in time instead.
	earliestUnixTime = 1_000_000_000
)

// parseRetryAfter returns how long to wait after an answer received at now. It
// reads the two forms of RFC 9110 section 10.2.3, seconds and HTTP date, and
// the unix time that Docker Hub has been seen to send. What is absent, in the
// past or unreadable is 0; what is longer than an hour is an hour.
func parseRetryAfter(value string, now time.Time) time.Duration {
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
