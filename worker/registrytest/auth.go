package registrytest

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

type credentials struct{ user, password string }

func (c credentials) match(user, password string) bool {
	return subtle.ConstantTimeCompare([]byte(c.user+"\x00"+c.password), []byte(user+"\x00"+password)) == 1
}

// access is what a request does to a repository, as actions of token scopes: pull, push and
// delete.
type access struct {
	repository string
	actions    []string
}

// scope returns the access as a token's scope.
func (a access) scope() string {
	return fmt.Sprintf("repository:%s:%s", a.repository, strings.Join(a.actions, ","))
}

// needed returns the access that a request needs. A mount reads another repository, too.
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

// unauthorized answers 401 if the request lacks credentials or a token.
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

// covers reports whether the granted actions include the wanted ones; "*" is all.
func covers(granted, wanted []string) bool {
	return slices.Contains(granted, "*") ||
		!slices.ContainsFunc(wanted, func(action string) bool { return !slices.Contains(granted, action) })
}

// writeError answers with an error of the distribution specification.
func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may have disconnected
		"errors": []map[string]string{{"code": code, "message": message}},
	})
}

// missable matches the requests that WithMissingStatus answers.
var missable = Kinds(KindTags, KindManifestHead, KindManifestGet, KindReferrers)

// defaultTokenExpiry is the lifetime of Docker Hub's tokens.
const defaultTokenExpiry = 300 * time.Second

const tokenServiceName = "registrytest"

// TokenAuth configures a token service at /token.
type TokenAuth struct {
	User, Password string
	IdentityToken  string        // also accepted, as an OAuth2 refresh token
	Anonymous      bool          // issue tokens for pulling without credentials
	Expiry         time.Duration // of a token; 0: defaultTokenExpiry
	Untold         bool          // leave out expires_in
	Realm          string        // URL of the token service; "": the registry's own

	// CreateOnPush refuses everything on a missing repository, unless the scope includes push:
	// then the repository is created. Quay does that.
	CreateOnPush bool
	// RefusePush is the status for scopes with push; 0: no refusal. Others grant the permitted
	// part of a scope.
	RefusePush int
	// EndedStatus is the status for an expired token: 400 without a challenge at
	// public.ecr.aws, 403 at others; 0: 401.
	EndedStatus int
}

// tokenService issues opaque tokens and remembers what they permit.
type tokenService struct {
	auth   TokenAuth
	exists func(repository string) bool
	now    func() time.Time

	mu      sync.Mutex
	login   credentials
	tokens  map[string]grant
	created map[string]bool // by CreateOnPush
}

type grant struct {
	expires time.Time
	actions map[string][]string // by repository
}

func newTokenService(auth TokenAuth, exists func(string) bool, now func() time.Time) *tokenService {
	if auth.Expiry == 0 {
		auth.Expiry = defaultTokenExpiry
	}
	return &tokenService{
		auth: auth, exists: exists, now: now,
		login: credentials{auth.User, auth.Password}, tokens: map[string]grant{}, created: map[string]bool{},
	}
}

// SetLogin replaces the accepted user and password, as a rotation does. It panics without
// authentication.
func (r *Registry) SetLogin(user, password string) {
	if r.tokens == nil {
		r.login.Store(&credentials{user, password})
		return
	}
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	r.tokens.login = credentials{user, password}
}

// Created returns the repositories that CreateOnPush created.
func (r *Registry) Created() []string {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	return slices.Sorted(maps.Keys(r.tokens.created))
}

// ExpireTokens makes all tokens so far invalid, as time does. It panics without WithTokenAuth.
func (r *Registry) ExpireTokens() {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.tokens)
}

// serve answers GET with basic credentials, and POST with a password grant or a refresh token.
func (s *tokenService) serve(w http.ResponseWriter, req *http.Request) {
	if err := req.ParseForm(); err != nil {
		writeError(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
		return
	}
	known, given := s.knows(req)
	if !known && (given || !s.auth.Anonymous) {
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	scopes := strings.Fields(strings.Join(req.Form["scope"], " "))
	if s.auth.RefusePush != 0 && slices.ContainsFunc(scopes, func(scope string) bool { return strings.Contains(scope, "push") }) {
		writeError(w, s.auth.RefusePush, "DENIED", "requested access to the resource is denied")
		return
	}
	token := s.issue(scopes, known)
	answer := map[string]any{"token": token, "access_token": token, "issued_at": s.now().UTC().Format(time.RFC3339)}
	if !s.auth.Untold {
		answer["expires_in"] = int(s.auth.Expiry.Seconds())
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client may have disconnected
}

// knows reports whether credentials are right, and whether there are any.
func (s *tokenService) knows(req *http.Request) (known, given bool) {
	user, password, given := req.BasicAuth()
	switch req.PostForm.Get("grant_type") {
	case "password":
		user, password, given = req.PostForm.Get("username"), req.PostForm.Get("password"), true
	case "refresh_token":
		return s.auth.IdentityToken != "" && req.PostForm.Get("refresh_token") == s.auth.IdentityToken, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return given && s.login.match(user, password), given
}

// issue grants the requested scopes; without valid credentials, only pulling.
func (s *tokenService) issue(scopes []string, known bool) string {
	actions := map[string][]string{}
	for _, scope := range scopes {
		name, ok := strings.CutPrefix(scope, "repository:")
		i := strings.LastIndex(name, ":")
		if !ok || i < 0 {
			continue
		}
		wanted := strings.Split(name[i+1:], ",")
		if s.auth.CreateOnPush && !s.provides(name[:i], known && slices.Contains(wanted, "push")) {
			continue
		}
		for _, action := range wanted {
			if known || action == "pull" {
				actions[name[:i]] = append(actions[name[:i]], action)
			}
		}
	}
	token := "1" + rand.Text() // as in real tokens, there is a digit
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = grant{expires: s.now().Add(s.auth.Expiry), actions: actions}
	return token
}

// provides reports whether there is such a repository. It creates it if create is set.
func (s *tokenService) provides(repository string, create bool) bool {
	exists := s.exists(repository)
	s.mu.Lock()
	defer s.mu.Unlock()
	if create && !exists {
		s.created[repository] = true
	}
	return exists || s.created[repository]
}

// ended reports whether a token is invalid, whatever it permits.
func (s *tokenService) ended(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	granted, ok := s.tokens[token]
	return !ok || !s.now().Before(granted.expires)
}

func (s *tokenService) allows(token string, needs []access) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	granted, ok := s.tokens[token]
	if !ok || !s.now().Before(granted.expires) {
		return false
	}
	for _, need := range needs {
		if !covers(granted.actions[need.repository], need.actions) {
			return false
		}
	}
	return true
}
