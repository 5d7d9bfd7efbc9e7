package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// sessionCookie has the prefix that makes browsers refuse it from other hosts and paths.
	sessionCookie = "__Host-session"
	sessionFor    = 12 * time.Hour
	maxSessions   = 1000

	// An address may try a password this many times at once, and then once in a while. All
	// addresses together may do so more often, but not so often that bcrypt takes the CPU.
	triesOfAddress, triesOfAll = 5, 50
	pauseOfAddress, pauseOfAll = 10 * time.Second, time.Second
	maxAddresses               = 10_000

	anonymous = "anonymous"
)

// access knows who sends a request.
type access struct {
	config    Config
	passwords passwords

	mu       sync.Mutex
	sessions map[[sha256.Size]byte]session // by the hash of their token
	tries    map[netip.Prefix]*rate.Limiter
	all      *rate.Limiter
}

// session is a login.
type session struct {
	user string
	hash []byte // of the password that it was made with: a new one ends the session
	ends time.Time
}

func newAccess(c Config) *access {
	return &access{
		config: c, passwords: passwords{path: c.PasswordFile},
		sessions: map[[sha256.Size]byte]session{}, tries: map[netip.Prefix]*rate.Limiter{},
		all: rate.NewLimiter(rate.Every(pauseOfAll), triesOfAll),
	}
}

// user returns who sends the request. It reports false if the request must not be served.
func (a *access) user(r *http.Request) (string, bool) {
	switch {
	case a.config.TrustProxy != "":
		named := r.Header.Values(a.config.TrustProxy)
		if len(named) != 1 || !validUser(named[0]) {
			return "", false
		}
		return named[0], true
	case a.config.PasswordFile != "":
		return a.loggedIn(r)
	}
	return anonymous, true
}

func (a *access) loggedIn(r *http.Request) (string, bool) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return "", false
	}
	key := sha256.Sum256([]byte(cookie.Value))
	a.mu.Lock()
	s, ok := a.sessions[key]
	a.mu.Unlock()
	if !ok || time.Now().After(s.ends) || !bytes.Equal(s.hash, a.passwords.hash(s.user)) {
		return "", false
	}
	return s.user, true
}

// basic returns who sends a request of a script, which has the password with it.
func (a *access) basic(r *http.Request) (user string, err error) {
	name, password, ok := r.BasicAuth()
	if !ok || a.config.PasswordFile == "" {
		return "", errWrong
	}
	if a.passwords.known(name, password) {
		return name, nil
	}
	return name, a.try(r, name, password)
}

// tooManyError is returned if a password was not even looked at.
type tooManyError struct{ wait time.Duration }

func (e *tooManyError) Error() string {
	return fmt.Sprintf("too many attempts; try again in %d s", int(math.Ceil(e.wait.Seconds())))
}

// try checks a password, unless the address or all addresses have tried too often.
func (a *access) try(r *http.Request, user, password string) error {
	for _, l := range []*rate.Limiter{a.limiter(address(r)), a.all} {
		if reserved := l.Reserve(); reserved.Delay() > 0 {
			wait := reserved.Delay()
			reserved.Cancel()
			return &tooManyError{wait}
		}
	}
	return a.passwords.check(user, password)
}

// address is where a request comes from: an IPv6 network counts as one.
func address(r *http.Request) netip.Prefix {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}

func (a *access) limiter(from netip.Prefix) *rate.Limiter {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.tries[from]
	if l == nil {
		if len(a.tries) >= maxAddresses {
			a.forgetFull()
		}
		l = rate.NewLimiter(rate.Every(pauseOfAddress), triesOfAddress)
		a.tries[from] = l
	}
	return l
}

// forgetFull drops the limiters that restrict nothing; if all do, it drops them all,
// because the limit for all addresses together is spent then.
func (a *access) forgetFull() {
	for from, l := range a.tries {
		if l.Tokens() >= triesOfAddress {
			delete(a.tries, from)
		}
	}
	if len(a.tries) >= maxAddresses {
		a.tries = map[netip.Prefix]*rate.Limiter{}
	}
}

// logIn starts a session.
func (a *access) logIn(w http.ResponseWriter, user string) {
	token := rand.Text()
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for key, s := range a.sessions {
		if now.After(s.ends) || len(a.sessions) >= maxSessions {
			delete(a.sessions, key)
		}
	}
	a.sessions[sha256.Sum256([]byte(token))] = session{user: user, hash: a.passwords.hash(user), ends: now.Add(sessionFor)}
	http.SetCookie(w, cookie(token, int(sessionFor/time.Second)))
}

func (a *access) logOut(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(sessionCookie); err == nil {
		a.mu.Lock()
		delete(a.sessions, sha256.Sum256([]byte(c.Value)))
		a.mu.Unlock()
	}
	http.SetCookie(w, cookie("", -1))
}

func cookie(value string, age int) *http.Cookie {
	return &http.Cookie{
		Name: sessionCookie, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

type userKey struct{}

func withUser(r *http.Request, user string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), userKey{}, user))
}

func userOf(r *http.Request) string {
	user, _ := r.Context().Value(userKey{}).(string)
	return user
}

// local returns the path to return to after a login: one of this page, never one of
// another site.
func local(path string) string {
	u, err := url.Parse(path)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.ContainsAny(path, "\\\r\n\t") {
		return "/"
	}
	return u.RequestURI()
}
