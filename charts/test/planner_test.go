package charttest

import (
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// env is a container's environment: values, and for Secrets their name and key.
func env(c core.Container) map[string]string {
	all := map[string]string{}
	for _, e := range c.Env {
		all[e.Name] = e.Value
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			all[e.Name] = e.ValueFrom.SecretKeyRef.Name + "/" + e.ValueFrom.SecretKeyRef.Key
		}
	}
	return all
}

func TestPlannerIsACronJob(t *testing.T) {
	c := find[*batch.CronJob](t, render(t, least), "planner").Spec
	require.Equal(t, batch.ForbidConcurrent, c.ConcurrencyPolicy)
	require.Equal(t, "Etc/UTC", *c.TimeZone)
	require.Equal(t, int32(3), *c.SuccessfulJobsHistoryLimit)
	require.Equal(t, int32(3), *c.FailedJobsHistoryLimit)
	p := c.JobTemplate.Spec.Template.Spec.Containers[0]
	require.Equal(t, []string{"planner"}, p.Command, "also in the worker's image")
	require.Equal(t, []string{"plan"}, p.Args)
}

// A wrong list stays wrong, and failed images are kept for republish. A retry helps only if the
// broker or the list could not be reached (exit code 3).
func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	job := find[*batch.CronJob](t, render(t, least), "planner").Spec.JobTemplate.Spec
	require.Equal(t, core.RestartPolicyNever, job.Template.Spec.RestartPolicy, "a failure policy needs it")
	require.Positive(t, *job.BackoffLimit)
	rules := job.PodFailurePolicy.Rules
	require.Equal(t, batch.PodFailurePolicyActionIgnore, rules[0].Action, "a drained node is no failure")
	require.Equal(t, batch.PodFailurePolicyActionFailJob, rules[1].Action)
	require.Equal(t, []int32{1, 2, 4}, rules[1].OnExitCodes.Values)
	require.Equal(t, job.Template.Spec.Containers[0].Name, *rules[1].OnExitCodes.ContainerName)
}

func TestPlannerRunsAtInstallOnly(t *testing.T) {
	require.False(t, has[*batch.Job](render(t, least)))
	at := "planner: {runAtInstall: true}"
	job := find[*batch.Job](t, render(t, least, at), "planner-install")
	cron := find[*batch.CronJob](t, render(t, least, at), "planner")
	require.Equal(t, cron.Spec.JobTemplate.Spec, job.Spec)
	require.Empty(t, job.Annotations, "no hook: helm install does not wait for it")
	require.False(t, has[*batch.Job](renderWith(t, options{upgrade: true}, least, at)))
}

func TestPlannerReadsItsValues(t *testing.T) {
	r := render(t, cases(t)["everything.yaml"])
	for _, c := range []core.Container{
		find[*batch.CronJob](t, r, "planner").Spec.JobTemplate.Spec.Template.Spec.Containers[0],
		find[*apps.Deployment](t, r, "console").Spec.Template.Spec.Containers[0],
	} {
		got := env(c)
		for name, want := range map[string]string{
			"MIRROR_SOURCE_URL":   "list/address",
			"MIRROR_DEST_URL":     "registry.example.com:5000/mirror",
			"MIRROR_NAME":         "nightly",
			"CHUNK_SIZE":          "100000000",
			"CHUNK_INTERVAL":      "10m",
			"FILTER":              `[0-9]+"\.`,
			"LIMIT":               "5",
			"PLATFORMS":           "linux/amd64,linux/arm64",
			"ATTESTATIONS":        "false",
			"REFERRERS":           "true",
			"MIN_AGE":             "3d",
			"BACKUP_TAG":          "{tag}-{date}",
			"BACKUP_KEEP":         "5",
			"IMMUTABLE_TAGS":      "v?[0-9] rc",
			"KEEP_TAGS":           "lts v?2[.]",
			"RATE_LIMITS":         "docker.io=100/6h,quay.io=20/1s",
			"INSECURE_REGISTRIES": "registry.example.com:5000",
			"QUAY_HOSTS":          "quay.example.com",
			"HARBOR_HOSTS":        "registry.example.com:5000",
			"CLOUD_CREDENTIALS":   "ecr,gar",
			"CHILD_ENV":           "VAULT_ADDR,CI_*",
			"HTTPS_PROXY":         "http://proxy.example.com:3128",
			"NO_PROXY":            "localhost,127.0.0.1,.svc,.cluster.local",
			"SSL_CERT_FILE":       "/ca/extra.pem",
			"TZ":                  "UTC",
			"LOG_LEVEL":           "debug",
			"LOG_FORMAT":          "json",
		} {
			require.Equal(t, want, got[name], "%s of %s", name, c.Name)
		}
	}
}

func TestListInValues(t *testing.T) {
	file, err := os.Open("../../docs/list.schema.json")
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	parsed, err := jsonschema.UnmarshalJSON(file)
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("list.schema.json", parsed))
	schema, err := compiler.Compile("list.schema.json")
	require.NoError(t, err)

	entries := `["quay.io/osism/osism", "nginx:1.25", {image: redis, tags: {semver: ">=7 <8", limit: 3}, platforms: [linux/amd64], referrers: true}]`
	var want any
	for name, values := range map[string]string{
		"entries": "list: " + entries,
		"a list":  "list: {containers: " + entries + "}",
		"a file":  "list: |\n  # ours\n  containers: " + entries,
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, "destination: registry.example.com\nnats: {install: true}", values)
			var list any
			require.NoError(t, yaml.Unmarshal([]byte(find[*core.ConfigMap](t, r, "list").Data["list.yaml"]), &list))
			require.NoError(t, schema.Validate(list))
			if want == nil {
				want = list
			}
			require.Equal(t, want, list)
			for _, p := range pods(r) {
				if strings.HasSuffix(p.owner, "-planner") || strings.HasSuffix(p.owner, "-console") {
					mounts, volumes := p.spec.Containers[0].VolumeMounts, p.spec.Volumes
					require.Equal(t, mounts[0].MountPath+"/list.yaml", env(p.spec.Containers[0])["MIRROR_SOURCE_URL"])
					require.Equal(t, fullName+"-list", volumes[0].ConfigMap.Name)
				}
			}
		})
	}
}

// The console has what the commands need: planner check sends requests to registries.
func TestConsole(t *testing.T) {
	r := render(t, least, "registries: {credentials: {existingSecret: registries}}")
	spec := find[*apps.Deployment](t, r, "console").Spec.Template.Spec
	c := spec.Containers[0]
	require.Equal(t, []string{"planner", "serve"}, c.Command)
	require.Equal(t, "127.0.0.1:8080", env(c)["UI_ADDR"], "only kubectl port-forward reaches it")
	require.NotContains(t, env(c), "MIRROR_SCHEDULE", "a CronJob plans")
	require.False(t, has[*core.Service](render(t, least, "nats: {install: false, url: 'nats://nats:4222'}")))
	require.Equal(t, "ghcr.io/osism/skopeo-worker/worker:0.1.0", c.Image)
	require.Equal(t, "/etc/skopeo-worker/auth/auth.json", env(c)["REGISTRY_AUTH_FILE"])
	require.Contains(t, r.notes, "kubectl -n mirrors exec deploy/mirror-skopeo-worker-console -- planner republish --all")
	require.Contains(t, r.notes, "kubectl -n mirrors create job plan-$(date +%s) --from=cronjob/mirror-skopeo-worker-planner")

	off := render(t, least, "console: {enabled: false}")
	require.NotContains(t, off.notes, "-console")
	for _, p := range pods(off) {
		require.NotContains(t, p.owner, "console")
	}
}

// TestConsolePage: with a Service, the page is open to others, who log in.
func TestConsolePage(t *testing.T) {
	r := render(t, least, `
networkPolicy: {enabled: true, pageFrom: [{namespaceSelector: {matchLabels: {name: ingress}}}]}
console:
  login: {existingSecret: users, key: auth}
  notify: {existingSecret: chats, when: always}
  service: {port: 8000, annotations: {a: b}}
  ingress: {enabled: true, className: nginx, host: mirror.example.com, tlsSecret: certificate}
  httpRoute: {enabled: true, parentRefs: [{name: gateway}], hostnames: [mirror.example.com]}`)
	spec := find[*apps.Deployment](t, r, "console").Spec.Template.Spec
	got := env(spec.Containers[0])
	for name, want := range map[string]string{
		"UI_ADDR": ":8080", "UI_READ_ONLY": "false", "UI_PASSWORD_FILE": "/etc/skopeo-worker/login/htpasswd", "METRICS_ADDR": ":9090",
		"NOTIFY_URLS": "chats/urls", "NOTIFY_ON": "always", "MAX_AGE": "36h", "MIRROR_TIMEZONE": "Etc/UTC",
	} {
		require.Equal(t, want, got[name], name)
	}
	login := spec.Volumes[len(spec.Volumes)-1].Secret
	require.Equal(t, "users", login.SecretName)
	require.Equal(t, []core.KeyToPath{{Key: "auth", Path: "htpasswd"}}, login.Items)

	service := find[*core.Service](t, r, "console")
	require.EqualValues(t, 8000, service.Spec.Ports[0].Port)
	require.Equal(t, spec.Containers[0].Ports[1].Name, service.Spec.Ports[0].TargetPort.StrVal)
	ingress := find[*networking.Ingress](t, r, "console").Spec
	require.Equal(t, "mirror.example.com", ingress.Rules[0].Host)
	require.Equal(t, "certificate", ingress.TLS[0].SecretName)
	require.Equal(t, service.Name, ingress.Rules[0].HTTP.Paths[0].Backend.Service.Name)
	route := find[*gateway.HTTPRoute](t, r, "console").Spec
	require.EqualValues(t, "gateway", route.ParentRefs[0].Name)
	require.EqualValues(t, service.Name, route.Rules[0].BackendRefs[0].Name)
	require.EqualValues(t, 8000, *route.Rules[0].BackendRefs[0].Port)
	policy := find[*networking.NetworkPolicy](t, r, "console").Spec
	require.Equal(t, "page", policy.Ingress[0].Ports[0].Port.StrVal)
	require.Equal(t, "ingress", policy.Ingress[0].From[0].NamespaceSelector.MatchLabels["name"])

	proxied := render(t, least, "console: {trustProxy: X-Forwarded-User, service: {enabled: true}}")
	require.Equal(t, "X-Forwarded-User", env(find[*apps.Deployment](t, proxied, "console").Spec.Template.Spec.Containers[0])["UI_TRUST_PROXY"])
}

// TestHelmTest: the logs of helm test can be read. It uses the credentials of the workers.
func TestHelmTest(t *testing.T) {
	r := render(t, least, `
registries: {credentials: {existingSecret: registries}}
caBundle: {existingConfigMap: ca}
planner: {podLabels: {network: outside}, podAnnotations: {a: b}}`)
	test := find[*core.Pod](t, r, "test")
	require.Equal(t, "test", test.Annotations["helm.sh/hook"])
	require.Equal(t, "before-hook-creation", test.Annotations["helm.sh/hook-delete-policy"], "a pod that is deleted has no logs")
	require.Equal(t, "outside", test.Labels["network"])
	require.Equal(t, "b", test.Annotations["a"])
	require.Len(t, test.Spec.Containers, 1, "helm test --logs does not choose one of several")
	c := test.Spec.Containers[0]
	require.Equal(t, []string{"planner", "check", "--access"}, append(c.Command, c.Args...))
	console := find[*apps.Deployment](t, r, "console").Spec.Template.Spec
	require.Equal(t, console.Containers[0].Image, c.Image, "credential helpers are in it")
	secret, key := registryFile(t, test.Spec)
	require.Equal(t, [2]string{"registries", ".dockerconfigjson"}, [2]string{secret, key})
	for _, name := range []string{"MIRROR_SOURCE_URL", "MIRROR_DEST_URL", "NATS_URL", "HOME", "SSL_CERT_DIR", "REGISTRY_AUTH_FILE"} {
		require.Equal(t, env(console.Containers[0])[name], env(c)[name], name)
	}
	require.Equal(t, core.RestartPolicyNever, test.Spec.RestartPolicy)
}
