package acceptance

import (
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// planted are the secrets of a site, by the place where they were given.
type planted map[string]string

func plant() planted {
	p := planted{}
	for _, place := range []string{
		"NATS_PASSWORD", "NATS_URL", "NATS_TOKEN", "MIRROR_SOURCE_URL", "query", "auth.json", "helper", "failing-helper", "proxy", "AWS", "CI", "others",
	} {
		p[place] = "s3cr&t/" + place + "+of=ours"
	}
	return p
}

// in returns the secrets that a text contains, plain, in a URL or in base64.
func (p planted) in(text string) (found []string) {
	for place, secret := range p {
		spellings := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), strings.ReplaceAll(secret, "&", `\u0026`)}
		for before := range 3 { // where it stands in groups of three bytes
			encoded := base64.RawURLEncoding.EncodeToString(append(make([]byte, before), secret...))
			spellings = append(spellings, encoded[4:len(encoded)-4], strings.NewReplacer("-", "+", "_", "/").Replace(encoded)[4:len(encoded)-4])
		}
		for _, spelling := range spellings {
			if strings.Contains(text, spelling) {
				found = append(found, place+" as "+spelling)
				break
			}
		}
	}
	return found
}

func (p planted) except(places ...string) planted {
	others := maps.Clone(p)
	for _, place := range places {
		delete(others, place)
	}
	return others
}

// leaking are the repositories that fail because a registry repeats secrets.
var leaking = []string{"osism/manifest", "osism/listing", "osism/layer", "osism/put", "osism/helper"}

// TestSecretsStaySecret puts secrets into every place that takes them. Everything that receives one
// repeats it. Then the test searches all that users and processes can see.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	for name, admit := range map[string]func(n *nosy, o *server.Options){
		"user and password": func(n *nosy, o *server.Options) {
			o.Username, o.Password = "worker", n.planted["NATS_PASSWORD"]
			n.env["NATS_USER"], n.env["NATS_PASSWORD"] = "worker", n.planted["NATS_PASSWORD"]
		},
		"URL": func(n *nosy, o *server.Options) {
			o.Username, o.Password = "worker", n.planted["NATS_URL"]
		},
		"token": func(n *nosy, o *server.Options) {
			o.Authorization = n.planted["NATS_TOKEN"]
			n.env["NATS_TOKEN"] = n.planted["NATS_TOKEN"]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNosy(t)
			store := t.TempDir()
			guarded := brokertest.Start(t, func(o *server.Options) { o.StoreDir = store; admit(n, o) })
			n.env["NATS_URL"] = guarded.URL()
			if name == "URL" {
				n.env["NATS_URL"] = (&url.URL{Scheme: "nats", User: url.UserPassword("worker", n.planted["NATS_URL"]),
					Host: strings.TrimPrefix(guarded.URL(), "nats://")}).String()
			}
			n.env["LOG_FORMAT"] = map[bool]string{true: "json", false: "text"}[name == "token"]
			n.planner("plan").exits(0)
			n.env["METRICS_ADDR"] = closedPort(t)
			worker := start(t, n.env, "", "worker")
			n.all = append(n.all, worker)
			n.fails()
			n.requireMirrored("osism/good")
			n.hides("metrics", metricsAt(t, n.env["METRICS_ADDR"]))
			worker.signal(syscall.SIGTERM)
			worker.exits(0)
			n.requireNoSecrets(store)
		})
	}
}

func metricsAt(t *testing.T, address string) string {
	t.Helper()
	var text strings.Builder
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK && response.Write(&text) == nil
	}, patience, tick)
	require.Contains(t, text.String(), "skopeo_worker_")
	return text.String()
}

// TestSecretsStaySecretOnOneMachine does the same with planner check, mirror and republish.
func TestSecretsStaySecretOnOneMachine(t *testing.T) {
	t.Parallel()
	n := newNosy(t)
	n.planner("check").exits(1)
	for _, command := range [][]string{{"mirror"}, {"republish", "--all"}} {
		p := n.planner(command...)
		require.Eventually(t, func() bool { return n.via.Load() > 0 && n.gaveUp(p) }, patience, tick)
		_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
		<-p.ended
	}
	n.requireMirrored("osism/good")
	n.requireNoSecrets(n.env["DATA_DIR"])
}
