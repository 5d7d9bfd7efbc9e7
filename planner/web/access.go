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
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

const (
	// sessionCookie has the prefix with which browsers refuse it from other hosts and paths.
	sessionCookie = "__Host-session"
	sessionFor    = 12 * time.Hour
	maxSessions   = 1000

	// One address may try triesOfAddress passwords at once, and then one per pauseOfAddress. All
	// addresses together may try more, but not so many that bcrypt takes all processor time.
	triesOfAddress, triesOfAll = 5, 50
	pauseOfAddress, pauseOfAll = 10 * time.Second, time.Second
	maxAddresses               = 10_000

	anonymous = "anonymous"
)

// access finds out which user sends a request.
type access struct {
	config    Config
	passwords *passwords
	sessions  *lru.Cache[[sha256.Size]byte, session] // by the hash of their token
	tries     *lru.Cache[netip.Prefix, *rate.Limiter]
	all       *rate.Limiter
}

// session is a login.
type session struct {
	user string
	hash []byte // of the password at the login: the session ends when the password changes
	ends time.Time
}

func newAccess(c Config) *access {
	return &access{
		config: c, passwords: &passwords{path: c.PasswordFile, proven: newCache[[sha256.Size]byte, time.Time](maxProven)},
		sessions: newCache[[sha256.Size]byte, session](maxSessions), tries: newCache[netip.Prefix, *rate.Limiter](maxAddresses),
		all: rate.NewLimiter(rate.Every(pauseOfAll), triesOfAll),
	}
}

// newCache returns a cache that drops what was used longest ago when it holds size entries.
func newCache[K comparable, V any](size int) *lru.Cache[K, V] {
	cache, _ := lru.New[K, V](size) // the only error is a size below 1
	return cache
}

// user returns the user who sends the request. It reports false if the request must not be served.
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
	s, ok := a.sessions.Get(sha256.Sum256([]byte(cookie.Value)))
	if !ok || time.Now().After(s.ends) || !bytes.Equal(s.hash, a.passwords.hash(s.user)) {
		return "", false
	}
	return s.user, true
}

// basic returns the user of a request with basic authentication, as scripts send it.
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

// tooManyError is returned if a password was not checked, because of too many tries.
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

// address returns the client's address, or its /64 network if that is IPv6.
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

// limiter returns the limiter of an address.
func (a *access) limiter(from netip.Prefix) *rate.Limiter {
	l := rate.NewLimiter(rate.Every(pauseOfAddress), triesOfAddress)
	if known, ok, _ := a.tries.PeekOrAdd(from, l); ok {
		return known
	}
	return l
}

// logIn starts a session.
func (a *access) logIn(w http.ResponseWriter, user string) {
	token := rand.Text()
	a.sessions.Add(sha256.Sum256([]byte(token)), session{user: user, hash: a.passwords.hash(user), ends: time.Now().Add(sessionFor)})
	http.SetCookie(w, cookie(token, int(sessionFor/time.Second)))
}

func (a *access) logOut(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(sessionCookie); err == nil {
		a.sessions.Remove(sha256.Sum256([]byte(c.Value)))
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

// local returns the path to return to after a login, or "/" if the path leads to another site.
func local(path string) string {
	u, err := url.Parse(path)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.ContainsAny(path, "\\\r\n\t") {
		return "/"
	}
	return u.RequestURI()
}
