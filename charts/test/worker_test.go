package charttest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
)

func worker(t *testing.T, r *rendering) apps.DeploymentSpec {
	t.Helper()
	return find[*apps.Deployment](t, r, "worker").Spec
}

func TestWorker(t *testing.T) {
	spec := worker(t, render(t, least))
	require.Equal(t, int32(2), *spec.Replicas)
	pod, c := spec.Template.Spec, spec.Template.Spec.Containers[0]
	require.Greater(t, *pod.TerminationGracePeriodSeconds, int64(20), "what a worker gives running copies")
	require.Equal(t, "/healthz", c.LivenessProbe.HTTPGet.Path)
	require.Equal(t, "/healthz", c.StartupProbe.HTTPGet.Path)
	require.Equal(t, "/readyz", c.ReadinessProbe.HTTPGet.Path)
	require.Equal(t, spec.Selector, pod.TopologySpreadConstraints[0].LabelSelector)

	// All files that a worker and its skopeo processes write share one writable folder.
	writable := map[string]bool{}
	for _, m := range c.VolumeMounts {
		writable[m.MountPath] = !m.ReadOnly
	}
	for _, name := range []string{"HOME", "TMPDIR", "XDG_RUNTIME_DIR"} {
		require.True(t, writable[env(c)[name]], name)
	}
}

// OpenShift chooses the user itself, and refuses a pod that sets one.
func TestUsersCanBeLeftToTheCluster(t *testing.T) {
	none := "{runAsUser: null, runAsGroup: null, fsGroup: null}"
	for _, p := range pods(render(t, least, "podSecurityContext: "+none+"\nnats: {server: {podSecurityContext: "+none+"}}")) {
		require.Nil(t, p.spec.SecurityContext.RunAsUser, p.owner)
		require.Nil(t, p.spec.SecurityContext.FSGroup, p.owner)
		require.True(t, *p.spec.SecurityContext.RunAsNonRoot, p.owner)
	}
}

func TestImages(t *testing.T) {
	for values, want := range map[string][2]string{
		"{}": {"ghcr.io/osism/skopeo-worker/worker:0.1.0", "docker.io/library/nats:2.15.3"},
		"global: {imageRegistry: 'r.example:5000/hub'}":              {"r.example:5000/hub/osism/skopeo-worker/worker:0.1.0", "r.example:5000/hub/library/nats:2.15.3"},
		"image: {registry: localhost:5000, tag: dev}":                {"localhost:5000/osism/skopeo-worker/worker:dev", "docker.io/library/nats:2.15.3"},
		"image: {registry: ''}":                                      {"osism/skopeo-worker/worker:0.1.0", "docker.io/library/nats:2.15.3"},
		"nats: {server: {image: {registry: r.example}}}":             {"ghcr.io/osism/skopeo-worker/worker:0.1.0", "r.example/library/nats:2.15.3"},
		"worker: {image: {repository: w, digest: '" + digest + "'}}": {"ghcr.io/w@" + digest, "docker.io/library/nats:2.15.3"},
	} {
		r := render(t, least, values)
		require.Equal(t, want[0], worker(t, r).Template.Spec.Containers[0].Image, values)
		require.Equal(t, want[1], find[*apps.StatefulSet](t, r, "nats").Spec.Template.Spec.Containers[0].Image, values)
	}
}

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// registryFile returns the key of the Secret to which REGISTRY_AUTH_FILE leads.
func registryFile(t *testing.T, p core.PodSpec) (secret, key string) {
	t.Helper()
	path := env(p.Containers[0])["REGISTRY_AUTH_FILE"]
	for _, m := range p.Containers[0].VolumeMounts {
		for _, v := range p.Volumes {
			if v.Name == m.Name && v.Secret != nil && len(v.Secret.Items) == 1 && m.MountPath+"/"+v.Secret.Items[0].Path == path {
				require.Empty(t, m.SubPath, "a new password would not show")
				return v.Secret.SecretName, v.Secret.Items[0].Key
			}
		}
	}
	require.FailNow(t, "REGISTRY_AUTH_FILE leads nowhere", path)
	return "", ""
}

func TestCredentials(t *testing.T) {
	for name, c := range map[string]struct{ values, secret, key string }{
		"dockerconfigjson there": {"existingSecret: mine", "mine", ".dockerconfigjson"},
		"auth.json there":        {"existingSecret: mine, key: auth.json", "mine", "auth.json"},
		"logins":                 {"logins: {quay.io: {username: u, password: 'p:\"w'}}", fullName + "-registries", ".dockerconfigjson"},
		"auth.json":              {`authFile: '{"auths": {"quay.io": {"auth": "dTpwOiJ3"}}}'`, fullName + "-registries", "auth.json"},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, least, "registries: {credentials: {"+c.values+"}}")
			secret, key := registryFile(t, worker(t, r).Template.Spec)
			require.Equal(t, [2]string{c.secret, c.key}, [2]string{secret, key})
			if secret == "mine" {
				return
			}
			made := find[*core.Secret](t, r, "registries")
			if key == core.DockerConfigJsonKey {
				require.Equal(t, core.SecretTypeDockerConfigJson, made.Type)
			}
			var file struct {
				Auths map[string]struct{ Auth []byte }
			}
			require.NoError(t, json.Unmarshal([]byte(made.StringData[key]), &file))
			require.Equal(t, `u:p:"w`, string(file.Auths["quay.io"].Auth))
		})
	}
}

// TestTwoCredentials: with the environment and the files of a pod, skopeo finds the users of two
// Secrets. That of the destination takes precedence.
func TestTwoCredentials(t *testing.T) {
	const source = `{"auths": {"quay.io": {"auth": "c291cmNlOng="}, "both.example.com": {"auth": "c291cmNlOng="}}}`
	const destination = `{"auths": {"registry.example.com": {"auth": "ZGVzdGluYXRpb246eA=="}, "both.example.com": {"auth": "ZGVzdGluYXRpb246eA=="}}}`
	for name, c := range map[string]struct {
		values string
		users  map[string]string // if empty, skopeo finds none
	}{
		"two Secrets": {"existingSecret: sources, destination: {existingSecret: ours, key: auth.json}",
			map[string]string{"quay.io": "source", "registry.example.com": "destination", "both.example.com": "destination"}},
		"logins and a Secret": {"logins: {quay.io: {username: source, password: x}}, destination: {existingSecret: ours, key: auth.json}",
			map[string]string{"quay.io": "source", "registry.example.com": "destination", "both.example.com": "destination"}},
		"only the destination's": {"destination: {existingSecret: ours, key: auth.json}",
			map[string]string{"quay.io": "", "registry.example.com": "destination"}},
		"only the sources'": {"existingSecret: sources", map[string]string{"quay.io": "source", "registry.example.com": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range pods(render(t, least, "registries: {credentials: {"+c.values+"}}")) {
				if strings.HasSuffix(p.owner, "-nats") {
					continue
				}
				root := t.TempDir()
				for _, m := range p.spec.Containers[0].VolumeMounts {
					for _, v := range p.spec.Volumes {
						if v.Name != m.Name || v.Secret == nil {
							continue
						}
						require.Empty(t, m.SubPath, "a new password would not show")
						text := source
						if v.Secret.SecretName == "ours" {
							text = destination
							require.Equal(t, "auth.json", v.Secret.Items[0].Key)
						}
						file := filepath.Join(root, m.MountPath, v.Secret.Items[0].Path)
						require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
						require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
					}
				}
				for registry, user := range c.users {
					command := exec.Command("skopeo", "login", "--get-login", registry)
					command.Env = []string{"PATH=" + os.Getenv("PATH")}
					for name, value := range env(p.spec.Containers[0]) {
						if strings.HasPrefix(value, "/var/lib/skopeo-worker") || strings.HasPrefix(value, "/etc/skopeo-worker/auth") {
							command.Env = append(command.Env, name+"="+root+value)
						}
					}
					said, err := command.CombinedOutput()
					if user == "" {
						require.Error(t, err, "%s: %s", p.owner, said)
						continue
					}
					require.NoError(t, err, "%s: %s", p.owner, said)
					require.Equal(t, user, strings.TrimSpace(string(said)), "%s, %s", p.owner, registry)
				}
			}
		})
	}
}

// SSL_CERT_DIR adds to the system's bundle; SSL_CERT_FILE would replace it.
func TestCABundleAddsToTheSystems(t *testing.T) {
	for name, c := range map[string]struct {
		values string
		from   core.VolumeSource
	}{
		"a ConfigMap there": {"existingConfigMap: ca, key: root.pem", core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{
			LocalObjectReference: core.LocalObjectReference{Name: "ca"}, Items: []core.KeyToPath{{Key: "root.pem", Path: "ca.crt"}}}}},
		"a Secret there": {"existingSecret: ca", core.VolumeSource{Secret: &core.SecretVolumeSource{
			SecretName: "ca", Items: []core.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}}},
		"made": {"pem: text", core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{
			LocalObjectReference: core.LocalObjectReference{Name: fullName + "-ca"}, Items: []core.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range pods(render(t, least, "caBundle: {"+c.values+"}")) {
				if p.owner == fullName+"-nats" {
					continue
				}
				got := env(p.spec.Containers[0])
				require.Equal(t, "/etc/ssl/certs:/etc/skopeo-worker/ca", got["SSL_CERT_DIR"], p.owner)
				require.NotContains(t, got, "SSL_CERT_FILE")
				require.Contains(t, p.spec.Containers[0].VolumeMounts, core.VolumeMount{Name: "ca", MountPath: "/etc/skopeo-worker/ca", ReadOnly: true})
				require.Contains(t, p.spec.Volumes, core.Volume{Name: "ca", VolumeSource: c.from})
			}
		})
	}
}

// TestSignaturePolicy: the pods that send requests to registries read the policy, and restart if it
// changes.
func TestSignaturePolicy(t *testing.T) {
	made := render(t, least, `signaturePolicy: {policy: '{"default": []}'}`)
	require.JSONEq(t, `{"default": []}`, find[*core.ConfigMap](t, made, "policy").Data["policy.json"])
	for name, c := range map[string]struct {
		r    *rendering
		from string
		path string
	}{
		"made":  {made, fullName + "-policy", "policy.json"},
		"there": {render(t, least, "signaturePolicy: {existingConfigMap: trust, key: ours.json}"), "trust", "ours.json"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range pods(c.r) {
				got := env(p.spec.Containers[0])
				if got["XDG_RUNTIME_DIR"] == "" {
					require.NotContains(t, got, "SIGNATURE_POLICY", p.owner)
					continue
				}
				require.Equal(t, "/etc/skopeo-worker/policy/"+c.path, got["SIGNATURE_POLICY"], p.owner)
				require.Contains(t, p.spec.Containers[0].VolumeMounts, core.VolumeMount{Name: "policy", MountPath: "/etc/skopeo-worker/policy", ReadOnly: true})
				require.Contains(t, p.spec.Volumes, core.Volume{Name: "policy", VolumeSource: core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{
					LocalObjectReference: core.LocalObjectReference{Name: c.from}}}})
			}
		})
	}
	const checksum = "checksum/signature-policy"
	other := render(t, least, `signaturePolicy: {policy: '{"default": [{"type": "reject"}]}'}`)
	require.NotEmpty(t, worker(t, made).Template.Annotations[checksum])
	require.NotEqual(t, worker(t, made).Template.Annotations[checksum], worker(t, other).Template.Annotations[checksum])
}

func TestReplicasCanBeLeftToKubectl(t *testing.T) {
	require.Zero(t, *worker(t, render(t, least, "worker: {replicas: 0}")).Replicas)
	require.Nil(t, worker(t, render(t, least, "worker: {replicas: null}")).Replicas)
}

func TestAutoscaling(t *testing.T) {
	r := render(t, least, "worker: {autoscaling: {enabled: true, maxReplicas: 9}}")
	require.Nil(t, worker(t, r).Replicas, "an upgrade would undo what the autoscaler did")
	hpa := find[*autoscaling.HorizontalPodAutoscaler](t, r, "worker").Spec
	require.Equal(t, fullName+"-worker", hpa.ScaleTargetRef.Name)
	require.Equal(t, int32(9), hpa.MaxReplicas)
	require.Equal(t, core.ResourceCPU, hpa.Metrics[0].Resource.Name)
}

func TestKEDA(t *testing.T) {
	r := render(t, least, "worker: {keda: {enabled: true}}")
	require.Nil(t, worker(t, r).Replicas)
	s := find[*ScaledObject](t, r, "worker").Spec
	require.Equal(t, fullName+"-worker", s.ScaleTargetRef.Name)
	require.Zero(t, s.MinReplicaCount)
	require.Len(t, s.Triggers, 1)
	require.Equal(t, "nats-jetstream", s.Triggers[0].Type)
	require.Equal(t, map[string]string{
		"natsServerMonitoringEndpoint": fullName + "-nats-headless.mirrors.svc:8222",
		"account":                      "$G",
		"stream":                       "MIRROR",
		"consumer":                     "workers",
		"lagThreshold":                 "1",
		"activationLagThreshold":       "0",
		"useHttps":                     "false",
	}, s.Triggers[0].Metadata)
	require.Contains(t, r.notes, "KEDA runs 0 to 4 workers")

	own := find[*ScaledObject](t, render(t, `
destination: registry.example.com
list: [quay.io/osism/osism]
nats: {url: "nats://nats:4222"}
worker: {keda: {enabled: true, monitoringEndpoint: "nats.nats.svc:8222", account: MIRROR, lagThreshold: 5}}`), "worker").Spec.Triggers[0].Metadata
	require.Equal(t, "nats.nats.svc:8222", own["natsServerMonitoringEndpoint"])
	require.Equal(t, "MIRROR", own["account"])
	require.Equal(t, "5", own["lagThreshold"])
}

func TestWorkersAreNotAllEvictedAtOnce(t *testing.T) {
	r := render(t, least)
	pdb := find[*policy.PodDisruptionBudget](t, r, "worker").Spec
	require.Equal(t, worker(t, r).Selector, pdb.Selector)
	require.Equal(t, 1, pdb.MaxUnavailable.IntValue())
	require.False(t, has[*policy.PodDisruptionBudget](render(t, least, "worker: {podDisruptionBudget: {enabled: false}}")))
}

func TestNetworkPolicy(t *testing.T) {
	require.False(t, has[*networking.NetworkPolicy](render(t, least)))
	r := render(t, `
destination: registry.example.com
list: [quay.io/osism/osism]
nats: {url: "tls://a.example.com:4333, wss://b.example.com"}
networkPolicy: {enabled: true, egressPorts: [443, 3128]}`)
	var ports []int
	for _, rule := range find[*networking.NetworkPolicy](t, r, "mirror").Spec.Egress {
		for _, p := range rule.Ports {
			ports = append(ports, p.Port.IntValue())
		}
	}
	require.Equal(t, []int{53, 53, 5353, 5353, 4333, 4222, 443, 3128}, ports)

	// The broker accepts the pods of this release, and those that a value names.
	nats := find[*networking.NetworkPolicy](t, render(t, least, `
networkPolicy:
  enabled: true
  brokerFrom: [{namespaceSelector: {matchLabels: {team: other}}, podSelector: {matchLabels: {app.kubernetes.io/instance: second}}}]`), "nats").Spec
	ingress := map[string][]networking.NetworkPolicyPeer{}
	for _, rule := range nats.Ingress {
		ingress[rule.Ports[0].Port.String()] = rule.From
	}
	require.Len(t, ingress, 2, "monitoring is closed")
	require.Len(t, ingress["6222"], 1)
	require.Len(t, ingress["nats"], 2)
	require.Equal(t, "mirror", ingress["nats"][0].PodSelector.MatchLabels["app.kubernetes.io/instance"])
	require.Equal(t, "other", ingress["nats"][1].NamespaceSelector.MatchLabels["team"])
	require.Equal(t, "second", ingress["nats"][1].PodSelector.MatchLabels["app.kubernetes.io/instance"])

	monitored := find[*networking.NetworkPolicy](t, render(t, least, "networkPolicy: {enabled: true, monitoringFrom: [{namespaceSelector: {}}]}\nnats: {server: {monitoring: {enabled: true}}}"), "nats").Spec
	require.Len(t, monitored.Ingress, 3)
	require.Equal(t, "monitor", monitored.Ingress[2].Ports[0].Port.String())
	require.NotEmpty(t, monitored.Ingress[2].From)
}
