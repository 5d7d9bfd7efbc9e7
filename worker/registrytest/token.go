package registrytest

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

// DefaultTokenExpiry is how long Docker Hub's tokens live.
const DefaultTokenExpiry = 300 * time.Second

const tokenServiceName = "registrytest"

// TokenAuth is a token service at /token.
type TokenAuth struct {
	User, Password string
	Anonymous      bool          // give out tokens for pulling without credentials
	Expiry         time.Duration // of a token; 0 = DefaultTokenExpiry
	Realm          string        // the URL clients are sent to; empty = the registry's own
}

// tokenService gives out opaque tokens and remembers what they allow.
type tokenService struct {
	auth   TokenAuth
	now    func() time.Time
	mu     sync.Mutex
	tokens map[string]grant
}

type grant struct {
	expires time.Time
	actions map[string][]string // by repository
}

func newTokenService(auth TokenAuth, now func() time.Time) *tokenService {
	if auth.Expiry == 0 {
		auth.Expiry = DefaultTokenExpiry
	}
	return &tokenService{auth: auth, now: now, tokens: map[string]grant{}}
}

// ExpireTokens makes every token given out so far invalid, as time does. It
// panics without WithTokenAuth.
func (r *Registry) ExpireTokens() {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.tokens)
}

// serve answers GET with basic credentials, and POST with a password grant.
func (s *tokenService) serve(w http.ResponseWriter, req *http.Request) {
	if err := req.ParseForm(); err != nil {
		writeError(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
		return
	}
	user, password, given := req.BasicAuth()
	if req.PostForm.Get("grant_type") == "password" {
		user, password, given = req.PostForm.Get("username"), req.PostForm.Get("password"), true
	}
	known := given && credentials{s.auth.User, s.auth.Password}.match(user, password)
	if !known && (given || !s.auth.Anonymous) {
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	token := s.issue(strings.Fields(strings.Join(req.Form["scope"], " ")), known)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may be gone
		"token":        token,
		"access_token": token,
		"expires_in":   int(s.auth.Expiry.Seconds()),
		"issued_at":    s.now().UTC().Format(time.RFC3339),
	})
}

// issue grants what was asked for; to strangers, pulling only.
func (s *tokenService) issue(scopes []string, known bool) string {
	actions := map[string][]string{}
	for _, scope := range scopes {
		name, ok := strings.CutPrefix(scope, "repository:")
		i := strings.LastIndex(name, ":")
		if !ok || i < 0 {
			continue
		}
		for _, action := range strings.Split(name[i+1:], ",") {
			if known || action == "pull" {
				actions[name[:i]] = append(actions[name[:i]], action)
			}
		}
	}
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = grant{expires: s.now().Add(s.auth.Expiry), actions: actions}
	return token
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
