package registrytest

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

type credentials struct{ user, password string }

func (c credentials) match(user, password string) bool {
	return subtle.ConstantTimeCompare([]byte(c.user+"\x00"+c.password), []byte(user+"\x00"+password)) == 1
}

// access is what may be done to a repository, in the words of token scopes:
// pull, push and delete.
type access struct {
	repository string
	actions    []string
}

// scope is the access as a token's scope.
func (a access) scope() string {
	return fmt.Sprintf("repository:%s:%s", a.repository, strings.Join(a.actions, ","))
}

// needed is what a request must be allowed to do. A mount reads another
// repository, too.
func needed(req *http.Request, request Request) []access {
	if request.Repository == "" {
		return nil
	}
	actions := []string{"pull", "push"}
	switch request.Method {
	case http.MethodGet, http.MethodHead:
		actions = []string{"pull"}
	case http.MethodDelete:
		actions = []string{"delete"}
	}
	needs := []access{{request.Repository, actions}}
	if from := req.URL.Query().Get("from"); request.Kind == KindBlobMount && from != "" {
		needs = append(needs, access{from, []string{"pull"}})
	}
	return needs
}

// unauthorized answers 401 where the request lacks credentials or a token.
func (r *Registry) unauthorized(w http.ResponseWriter, req *http.Request, request Request) bool {
	switch {
	case r.settings.basicAuth != nil:
		user, password, given := req.BasicAuth()
		if r.login.Load().match(user, password) {
			return false
		}
		if status := r.settings.basicRefusal; given && status != 0 {
			writeError(w, status, "DENIED", "your authorization token has expired")
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="registrytest"`)
	case r.tokens != nil:
		needs := needed(req, request)
		token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if r.tokens.allows(token, needs) {
			return false
		}
		if status := r.settings.tokenAuth.EndedStatus; token != "" && status != 0 && r.tokens.ended(token) {
			writeError(w, status, "DENIED", "your authorization token has expired")
			return true
		}
		w.Header().Set("WWW-Authenticate", r.challenge(needs))
	default:
		return false
	}
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return true
}

func (r *Registry) challenge(needs []access) string {
	realm := r.settings.tokenAuth.Realm
	if realm == "" {
		realm = r.URL() + tokenPath
	}
	challenge := fmt.Sprintf(`Bearer realm="%s",service="%s"`, realm, tokenServiceName)
	var scopes []string
	for _, need := range needs {
		scopes = append(scopes, need.scope())
	}
	if len(scopes) > 0 {
		challenge += fmt.Sprintf(`,scope="%s"`, strings.Join(scopes, " "))
	}
	return challenge
}

// covers says whether granted actions include the wanted ones; "*" is all.
func covers(granted, wanted []string) bool {
	return slices.Contains(granted, "*") ||
		!slices.ContainsFunc(wanted, func(action string) bool { return !slices.Contains(granted, action) })
}

// writeError answers with an error as the distribution specification has it.
func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may be gone
		"errors": []map[string]string{{"code": code, "message": message}},
	})
}

// missable is a request that WithMissingStatus is about.
var missable = Kinds(KindTags, KindManifestHead, KindManifestGet, KindReferrers)
