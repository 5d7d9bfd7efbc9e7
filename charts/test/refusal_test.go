package charttest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"
)

func TestBadValuesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ values, message string }{
		"a typo":                   {"worker: {replica: 3}", "at '/worker': additional properties 'replica' not allowed"},
		"a typo at the top":        {"destinations: x", "additional properties 'destinations' not allowed"},
		"a typo deep down":         {"nats: {server: {persistence: {sise: 1Gi}}}", "additional properties 'sise' not allowed"},
		"a typo in an entry":       {"list: [{image: a, tag: b}]", "additional properties 'tag' not allowed"},
		"an entry of no image":     {"list: [{platforms: [linux/amd64]}]", "missing property 'image'"},
		"a number for a text":      {"mirrorName: 7", "at '/mirrorName': got number, want string"},
		"a text for a number":      {"worker: {replicas: many}", "at '/worker/replicas': got string, want integer"},
		"a negative number":        {"planner: {limit: -1}", "at '/planner/limit': minimum: got -1, want 0"},
		"two servers":              {"nats: {server: {replicas: 2}}", "at '/nats/server/replicas': value must be one of 1, 3"},
		"a scheme at destination":  {"destination: https://registry.example.com", "at '/destination'"},
		"a bad duration":           {"planner: {chunkInterval: 10 minutes}", "at '/planner/chunkInterval'"},
		"a bad limit":              {"registries: {rateLimits: {docker.io: 100 per day}}", "at '/registries/rateLimits/docker.io'"},
		"a bad broker":             {"nats: {install: false, url: nats.example.com}", "at '/nats/url'"},
		"a bad name":               {"mirrorName: Nightly Mirror", "at '/mirrorName'"},
		"a bad level":              {"log: {level: loud}", "value must be one of 'debug', 'info', 'warn', 'error'"},
		"too little time to stop":  {"worker: {terminationGracePeriodSeconds: 10}", "minimum: got 10, want 30"},
		"no destination":           {"destination: ''", "destination is empty: set it to the destination registry"},
		"no list":                  {"list: []", "set exactly one of list, source.url and source.existingSecret; set are: none"},
		"two lists":                {"source: {url: https://example.com/images.yml}", "set exactly one of list, source.url and source.existingSecret; set are: list, source.url"},
		"no broker":                {"nats: {install: false}", "set either nats.url, the broker to use, or nats.install=true"},
		"two brokers":              {"nats: {url: 'nats://nats:4222'}", "set either nats.url, the broker to use, or nats.install=true"},
		"two scalers":              {"worker: {keda: {enabled: true}, autoscaling: {enabled: true}}", "enable worker.autoscaling or worker.keda, not both"},
		"KEDA without an endpoint": {"nats: {install: false, url: 'nats://nats:4222'}\nworker: {keda: {enabled: true}}", "worker.keda needs worker.keda.monitoringEndpoint"},
		"two monitors":             {"metrics: {podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}", "enable metrics.podMonitor or metrics.serviceMonitor, not both"},
		"credentials twice":        {"registries: {credentials: {existingSecret: a, authFile: b}}", "registries.credentials: set one of authFile, existingSecret"},
		"CAs twice":                {"caBundle: {existingSecret: a, pem: b}", "caBundle: set one of existingSecret, pem"},
		"two policies":             {"signaturePolicy: {existingConfigMap: a, policy: b}", "signaturePolicy: set one of existingConfigMap, policy"},
		"a token without one":      {"nats: {install: false, url: 'nats://nats:4222', auth: {type: token}}", "nats.auth.token or nats.auth.existingSecret is needed"},
		"a user without password":  {"nats: {install: false, url: 'nats://nats:4222', auth: {type: user}}", "nats.auth.password or nats.auth.existingSecret is needed"},
		"an open page":             {"console: {service: {enabled: true}}", "set console.login.existingSecret, console.trustProxy or console.readOnly"},
		"an open route":            {"console: {httpRoute: {enabled: true, parentRefs: [{name: g}]}}", "set console.login.existingSecret, console.trustProxy or console.readOnly"},
		"two ways to log in":       {"console: {login: {existingSecret: a}, trustProxy: X-User}", "set console.login.existingSecret or console.trustProxy, not both"},
		"an Ingress of no host":    {"console: {readOnly: true, ingress: {enabled: true}}", "console.ingress.host is required"},
		"a route of no gateway":    {"console: {readOnly: true, httpRoute: {enabled: true}}", "console.httpRoute.parentRefs is required"},
		"two certificates":         {"nats: {server: {tls: {enabled: true, existingSecret: a, certManager: {issuerRef: {name: b}}}}}", "nats.server.tls: set one of existingSecret, certManager.issuerRef"},
		"servers without a CA":     {"nats: {server: {replicas: 3, tls: {enabled: true, existingSecret: a, keys: {ca: ''}}}}", "nats.server.tls.keys.ca is required"},
		"a password with an at":    {"nats: {auth: {password: 'a@b'}}", "nats.auth.password must be letters and digits"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := try(options{}, least, c.values)
			require.ErrorContains(t, err, c.message)
		})
	}
}

// free are the values whose keys the user may choose.
var free = []string{"global", "requests", "limits", "metrics.dashboard.labels"}

// The schema has every key of values.yaml, and refuses any other beside it.
func TestSchemaIsClosed(t *testing.T) {
	c, err := loader.Load(chartDir)
	require.NoError(t, err)
	require.NoError(t, chartutil.ValidateAgainstSchema(c, c.Values))
	closed := 0
	var walk func(path []string, values map[string]any)
	walk = func(path []string, values map[string]any) {
		for key, v := range values {
			if below, ok := v.(map[string]any); ok && len(below) > 0 {
				walk(append(path[:len(path):len(path)], key), below)
			}
		}
		for _, f := range free {
			if joined := strings.Join(path, "."); joined == f || strings.HasSuffix(joined, "."+f) {
				return
			}
		}
		values["tpyo"] = true
		err := chartutil.ValidateAgainstSchema(c, c.Values)
		require.ErrorContains(t, err, "'tpyo' not allowed", "at %q", path)
		delete(values, "tpyo")
		closed++
	}
	walk(nil, c.Values)
	require.Greater(t, closed, 40)
}

// values.yaml describes every key of the schema.
func TestSchemaKnowsNothingElse(t *testing.T) {
	c, err := loader.Load(chartDir)
	require.NoError(t, err)
	type node struct {
		Properties map[string]*node `json:"properties"`
	}
	var root node
	require.NoError(t, yaml.Unmarshal(c.Schema, &root))
	var walk func(path string, n *node, values map[string]any)
	walk = func(path string, n *node, values map[string]any) {
		for key, below := range n.Properties {
			v, found := values[key]
			require.True(t, found, "%s%s is in the schema and not in values.yaml", path, key)
			if table, ok := v.(map[string]any); ok && len(table) > 0 {
				walk(path+key+".", below, table)
			}
		}
	}
	walk("", &root, c.Values)
}
