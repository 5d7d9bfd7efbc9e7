package web

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/config"
)

// Config is the address of the page, and how its users are known.
type Config struct {
	Addr         string        `envconfig:"UI_ADDR" default:"127.0.0.1:8080" desc:"address of the page"`
	ReadOnly     bool          `envconfig:"UI_READ_ONLY" default:"false" expect:"true or false" desc:"show everything; republish, cancel, plan, release and prune nothing"`
	PasswordFile string        `envconfig:"UI_PASSWORD_FILE" desc:"file of users with bcrypt hashes (htpasswd -B), who must log in"`
	TrustProxy   string        `envconfig:"UI_TRUST_PROXY" desc:"header in which a proxy names the user, as X-Forwarded-User; all requests must pass through the proxy"`
	MaxAge       time.Duration `envconfig:"MAX_AGE" default:"36h" expect:"a duration such as 36h, 0 or more" desc:"a mirror is stale if its last complete run ended longer ago than this; 0: never"`
}

// header is the name of an HTTP header.
var header = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// Validate implements config.Validator.
func (c *Config) Validate() []error {
	var bad []error
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		bad = append(bad, config.Bad("UI_ADDR", c.Addr, "host:port, or :port for every address"))
	} else if !c.onLoopback() && !c.ReadOnly && c.PasswordFile == "" && c.TrustProxy == "" {
		bad = append(bad, config.Bad("UI_ADDR", c.Addr,
			"a loopback address; on another one, UI_PASSWORD_FILE, UI_TRUST_PROXY or UI_READ_ONLY=true is required"))
	}
	if c.TrustProxy != "" && !header.MatchString(c.TrustProxy) {
		bad = append(bad, config.Bad("UI_TRUST_PROXY", c.TrustProxy, "the name of a header, as X-Forwarded-User"))
	}
	if c.TrustProxy != "" && c.PasswordFile != "" {
		bad = append(bad, config.Bad("UI_TRUST_PROXY", "", "either UI_TRUST_PROXY or UI_PASSWORD_FILE, not both"))
	}
	if c.PasswordFile != "" {
		if _, err := readUsers(c.PasswordFile); err != nil {
			bad = append(bad, config.Bad("UI_PASSWORD_FILE", "", "lines of user:hash with bcrypt, as htpasswd -B writes them: "+err.Error()))
		}
	}
	if c.MaxAge < 0 {
		bad = append(bad, config.Bad("MAX_AGE", "", "a duration such as 36h, 0 or more"))
	}
	return bad
}

// onLoopback reports whether only this machine can reach the address.
func (c *Config) onLoopback() bool {
	host, _, _ := net.SplitHostPort(c.Addr)
	return loopback(host)
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// checkHost protects a page without login on a loopback address: it refuses requests for other host
// names. Otherwise, a foreign site could point its name to the loopback address (DNS rebinding), and
// browsers would give it access to the page.
func (c *Config) checkHost(next http.Handler) http.Handler {
	if c.PasswordFile != "" || c.TrustProxy != "" || !c.onLoopback() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]")
		}
		if !loopback(host) {
			http.Error(w, fmt.Sprintf("UI_ADDR=%s is answered only under localhost and loopback addresses; behind a proxy, set UI_TRUST_PROXY or UI_PASSWORD_FILE", c.Addr), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
