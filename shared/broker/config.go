package broker

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/redact"
)

// Config is the address of the broker and the credentials for it.
type Config struct {
	URL      string `envconfig:"NATS_URL" desc:"URL of the broker (nats://, tls://, ws:// or wss://), several separated by commas; empty: an embedded broker in DATA_DIR"`
	Creds    string `envconfig:"NATS_CREDS" desc:"file with NATS credentials"`
	NKey     string `envconfig:"NATS_NKEY" desc:"file with an NKey seed"`
	User     string `envconfig:"NATS_USER" desc:"user name for the broker"`
	Password string `envconfig:"NATS_PASSWORD" desc:"password for NATS_USER"`
	Token    string `envconfig:"NATS_TOKEN" desc:"token for the broker"`
	CA       string `envconfig:"NATS_CA" desc:"file with the CA certificates that verify the broker"`
	Cert     string `envconfig:"NATS_CERT" desc:"file with the client certificate"`
	Key      string `envconfig:"NATS_KEY" desc:"file with the key of NATS_CERT"`
	Replicas int    `envconfig:"NATS_REPLICAS" default:"1" expect:"1, 3 or 5" desc:"replicas of streams and buckets: 1, 3 or 5"`
	DataDir  string `envconfig:"DATA_DIR" default:"./data" desc:"folder of the embedded broker, used if NATS_URL is empty"`
}

// Embedded reports whether the broker runs in this process.
func (c *Config) Embedded() bool { return c.URL == "" }

// Validate implements config.Validator.
func (c *Config) Validate() []error {
	var bad []error
	if c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		bad = append(bad, config.Bad("NATS_REPLICAS", "", "1, 3 or 5"))
	}
	for _, u := range strings.Split(c.URL, ",") {
		if c.URL != "" && !validServer(strings.TrimSpace(u)) {
			bad = append(bad, config.Bad("NATS_URL", "", "nats://host:4222, or tls://, ws:// or wss://, several separated by commas"))
			break
		}
	}
	files := []struct{ variable, path string }{
		{"NATS_CREDS", c.Creds}, {"NATS_NKEY", c.NKey}, {"NATS_CA", c.CA}, {"NATS_CERT", c.Cert}, {"NATS_KEY", c.Key},
	}
	for _, f := range files {
		if f.path == "" {
			continue
		}
		if info, err := os.Stat(f.path); err != nil || info.IsDir() {
			bad = append(bad, config.Bad(f.variable, f.path, "the path of a readable file"))
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		bad = append(bad, config.Bad("NATS_CERT", "", "both NATS_CERT and NATS_KEY, or neither"))
	}
	if c.Password != "" && c.User == "" {
		bad = append(bad, config.Bad("NATS_USER", "", "the user name for NATS_PASSWORD"))
	}
	return bad
}

func validServer(s string) bool {
	u, err := url.Parse(withScheme(s))
	if err != nil || u.Hostname() == "" {
		return false
	}
	switch u.Scheme {
	case "nats", "tls", "ws", "wss":
		return true
	}
	return false
}

// userinfo is the user in the URL, or nil. It is also that of the servers that the broker
// announces.
func (c *Config) userinfo() *url.Userinfo {
	for _, s := range strings.Split(c.URL, ",") {
		if u, err := url.Parse(withScheme(strings.TrimSpace(s))); err == nil && u.User != nil {
			return u.User
		}
	}
	return nil
}

// shown returns the URL without secrets.
func (c *Config) shown() string {
	servers := strings.Split(c.URL, ",")
	for i, s := range servers {
		servers[i] = redact.URL(withScheme(strings.TrimSpace(s)))
	}
	return strings.Join(servers, ",")
}

// withScheme returns a server as a URL. The scheme may be left out.
func withScheme(server string) string {
	if !strings.Contains(server, "://") {
		return "nats://" + server
	}
	return server
}

// explain adds the variables to check to an error of nats.go.
func explain(server string, err error) error {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrNkeysNotSupported):
		return fmt.Errorf("%w at %s: see NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, NATS_TOKEN: %w", ErrCredentials, server, err)
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w at %s: see NATS_CA, NATS_CERT and NATS_KEY: %w", ErrCredentials, server, err)
	}
	if errors.Is(err, nats.ErrNoServers) {
		err = fmt.Errorf("no answer: %w", err)
	}
	return fmt.Errorf("%w at %s (NATS_URL): %w", ErrUnreachable, server, err)
}

// clientOptions reads the files in the configuration, so that an invalid file is reported
// and does not look like a broker that does not answer.
func clientOptions(c Config) ([]nats.Option, error) {
	var opts []nats.Option
	var bad []error
	add := func(variable string, o nats.Option) {
		if err := checkOption(o); err != nil {
			bad = append(bad, fmt.Errorf("%w: %s: %w", ErrCredentials, variable, err))
		}
		opts = append(opts, o)
	}
	noteKeys(c.Creds, c.NKey)
	if c.Creds != "" {
		add("NATS_CREDS", nats.UserCredentials(c.Creds))
	}
	if c.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			o = func(*nats.Options) error { return err }
		}
		add("NATS_NKEY", o)
	}
	if c.User != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.CA != "" {
		add("NATS_CA", nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		add("NATS_CERT and NATS_KEY", nats.ClientCert(c.Cert, c.Key))
	}
	return opts, errors.Join(bad...)
}

// keyLength is longer than any other word in a file with keys, in bytes, and shorter than a seed.
const keyLength = 40

// noteKeys makes the seeds and JWTs in files known to package redact. A file that cannot be
// read is reported elsewhere.
func noteKeys(paths ...string) {
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		for word := range strings.FieldsSeq(string(text)) {
			if len(word) >= keyLength {
				redact.Add(word)
			}
		}
	}
}

// checkOption applies an option and reads the credentials that it would read later.
func checkOption(o nats.Option) error {
	probe := nats.GetDefaultOptions()
	err := o(&probe)
	if err == nil && probe.UserJWT != nil {
		_, err = probe.UserJWT()
	}
	if err == nil && probe.SignatureCB != nil {
		_, err = probe.SignatureCB(nil)
	}
	return err
}

func options(o Options) []nats.Option {
	return []nats.Option{
		nats.Name(o.Client),
		nats.Timeout(dialTimeout),
		nats.PingInterval(pingInterval),
		// Each request for a batch makes a queue of this length. That of nats.go takes half a
		// megabyte.
		nats.SyncQueueLen(2 * batchMessages),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		// Rotated credentials must not end a worker for good.
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				o.Log.Warn("lost the broker, reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { o.Log.Info("the broker is back") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			o.Log.Debug("broker", "error", err)
		}),
	}
}
