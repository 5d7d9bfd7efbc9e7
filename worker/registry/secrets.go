package registry

import (
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/osism/skopeo-worker/shared/redact"
)

// noteSecrets makes the credentials in a request known, whose answer may show them:
// passwords, tokens, and what a token server is asked with in a form.
func noteSecrets(request *http.Request) {
	kind, value, _ := strings.Cut(request.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(kind, "basic"):
		user, password, _ := request.BasicAuth()
		redact.AddRecentLogin(user, password)
	case value != "":
		redact.AddRecent(strings.TrimSpace(value))
	}
	if request.GetBody == nil || request.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return
	}
	body, err := request.GetBody()
	if err != nil {
		return // the request will say so
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxErrorSize))
	if err != nil {
		return
	}
	form, _ := url.ParseQuery(string(text))
	redact.AddRecentLogin(form.Get("username"), form.Get("password"))
	redact.AddRecent(form.Get("refresh_token"), form.Get("access_token"))
}
