package config_test

import (
	"bytes"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/config"
)

// task has one field of each type that a command has.
type task struct {
	Source   string        `envconfig:"TEST_SOURCE" required:"true" expect:"a path" desc:"where from"`
	Size     int           `envconfig:"TEST_SIZE" default:"10" expect:"a whole number, 0 or more" desc:"how many"`
	Interval time.Duration `envconfig:"TEST_INTERVAL" default:"90s" expect:"a duration such as 90s" desc:"how often"`
	Hosts    []string      `envconfig:"TEST_HOSTS" desc:"who"`

	parsed string
}

func (t *task) Validate() []error {
	t.parsed = strings.ToUpper(t.Source)
	var bad []error
	if t.Source == "" {
		bad = append(bad, config.Bad("TEST_SOURCE", "", "a path that exists"))
	}
	if t.Size < 0 {
		bad = append(bad, config.Bad("TEST_SIZE", "", "a whole number, 0 or more"))
	}
	return bad
}

// settings sets these variables and unsets all others.
func settings(t *testing.T, variables map[string]string) {
	for _, v := range []string{
		"TEST_SOURCE", "TEST_SIZE", "TEST_INTERVAL", "TEST_HOSTS", "LOG_LEVEL", "LOG_FORMAT",
		"NATS_URL", "NATS_CREDS", "NATS_NKEY", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN",
		"NATS_CA", "NATS_CERT", "NATS_KEY", "NATS_REPLICAS", "DATA_DIR",
	} {
		t.Setenv(v, variables[v])
	}
}

func TestEmptyIsUnset(t *testing.T) {
	settings(t, map[string]string{"TEST_SOURCE": "list.yaml", "TEST_HOSTS": "a,b"})
	var got task
	var c broker.Config
	require.NoError(t, config.Load(&got, &c))
	require.Equal(t, task{Source: "list.yaml", Size: 10, Interval: 90 * time.Second, Hosts: []string{"a", "b"}, parsed: "LIST.YAML"}, got)
	require.Equal(t, broker.Config{Replicas: 1, DataDir: "./data"}, c)
	require.True(t, c.Embedded())
}

func TestEveryMistakeIsToldOnce(t *testing.T) {
	settings(t, map[string]string{
		"TEST_SIZE":     "-1",
		"TEST_INTERVAL": "soon",
		"NATS_REPLICAS": "many",
		"NATS_URL":      "http://planner:s3cret@nats:4222",
		"NATS_PASSWORD": "s3cret",
		"NATS_CREDS":    "/nowhere/user.creds",
		"NATS_CERT":     "config.go",
		"LOG_LEVEL":     "loud",
		"LOG_FORMAT":    "xml",
	})
	err := config.Load(&task{}, &broker.Config{}, &config.Log{})
	require.ErrorIs(t, err, config.ErrInvalid)
	require.Equal(t, `invalid configuration:
TEST_SOURCE is not set: expected a path
TEST_INTERVAL="soon": expected a duration such as 90s
TEST_SIZE: expected a whole number, 0 or more
NATS_REPLICAS="many": expected 1, 3 or 5
NATS_URL: expected nats://host:4222, or tls://, ws:// or wss://, several separated by commas
NATS_CREDS="/nowhere/user.creds": expected the path of a readable file
NATS_CERT: expected both NATS_CERT and NATS_KEY, or neither
NATS_USER: expected the user name for NATS_PASSWORD
LOG_LEVEL="loud": expected debug, info, warn or error
LOG_FORMAT="xml": expected text or json`, err.Error())
}

func TestServers(t *testing.T) {
	for url, valid := range map[string]bool{
		"nats://one:4222, tls://two:4222": true,
		"one":                             true,
		"planner:s3cret@one:4222":         true,
		"wss://one/path":                  true,
		"nats://one:4222,":                false,
		"http://one:4222":                 false,
		"nats://planner:s3%zzcret@one":    false,
		"nats://":                         false,
	} {
		settings(t, map[string]string{"NATS_URL": url})
		err := config.Load(&broker.Config{})
		if valid {
			require.NoError(t, err, url)
			continue
		}
		require.ErrorIs(t, err, config.ErrInvalid, url)
		require.NotContains(t, err.Error(), "s3")
	}
}

func TestHelpHasEveryVariable(t *testing.T) {
	require.Equal(t, `  TEST_SOURCE    required  where from
  TEST_SIZE      10        how many
  TEST_INTERVAL  90s       how often
  TEST_HOSTS               who
  LOG_LEVEL      info      debug, info, warn or error
  LOG_FORMAT     text      text or json
`, config.Annotation(&task{}, &config.Log{})[config.Variables])
}

func TestLog(t *testing.T) {
	settings(t, map[string]string{"LOG_LEVEL": "WARN", "LOG_FORMAT": "JSON"})
	var l config.Log
	require.NoError(t, config.Load(&l))
	require.Equal(t, slog.LevelWarn, l.Level)
	var out bytes.Buffer
	log := l.Logger(&out)
	log.Info("quiet")
	log.Warn("loud", "n", 1)
	require.Contains(t, out.String(), `"msg":"loud","n":1}`)
	require.NotContains(t, out.String(), "quiet")
}

// TestLogHasNoSecrets: errors and attributes of libraries are logged without secrets.
func TestLogHasNoSecrets(t *testing.T) {
	const secret = `s3cret&"pass`
	settings(t, map[string]string{"NATS_USER": "worker", "NATS_PASSWORD": secret})
	require.NoError(t, config.Load(new(broker.Config)))
	for _, format := range []string{"text", "json"} {
		l := config.Log{Level: slog.LevelDebug, Format: format}
		var out bytes.Buffer
		before := slog.Default()
		t.Cleanup(func() { slog.SetDefault(before) })
		log := l.Logger(&out).With("password", secret)
		stdlog.Print("a library sent ", secret)
		log.Debug("got "+secret, "error", fmt.Errorf("refused: %w", errors.New(secret)), "list", []string{"a", secret},
			"bytes", []byte(secret), "url", &url.URL{Scheme: "https", User: url.UserPassword("bob", "unknown"), Host: "quay.io"},
			slog.Group("all", "map", map[string]string{"a": secret}, "number", 7, "plain", []string{"a", "b"}))
		require.NotContains(t, out.String(), "s3cret")
		require.NotContains(t, out.String(), "unknown")
		require.Contains(t, out.String(), "got xxxxx")
		require.Contains(t, out.String(), "a library sent xxxxx")
		require.Contains(t, out.String(), "refused: xxxxx")
		require.Contains(t, out.String(), "https://quay.io")
		if format == "json" {
			require.Contains(t, out.String(), `"number":7,"plain":["a","b"]`)
		}
	}
}
