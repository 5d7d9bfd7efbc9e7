package registrytest

import (
	"net/http"
	"strconv"
)

// shortPage asks for at most limit tags, whatever the client asked for.
func shortPage(req *http.Request, limit int) *http.Request {
	query := req.URL.Query()
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n <= limit {
		return req
	}
	query.Set("n", strconv.Itoa(limit))
	short := req.Clone(req.Context())
	short.URL.RawQuery = query.Encode()
	return short
}
