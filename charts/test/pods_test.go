package charttest

import (
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/yaml"
)

// fixed are minimal values with a password, so that two renderings have the same one.
const fixed = `
destination: registry.example.com/mirror
list: [quay.io/osism/osism]
nats: {install: true, auth: {password: fixed}}
`

// podSettings are the settings of the pods of every component.
const podSettings = `
podLabels: {tier: mirrors}
podAnnotations: {example.com/note: pod}
annotations: {example.com/note: object}
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{key: mirrors, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
priorityClassName: low
runtimeClassName: gvisor
schedulerName: ours
hostAliases: [{ip: 192.0.2.1, hostnames: [registry.example.com]}]
dnsPolicy: None
dnsConfig: {nameservers: [192.0.2.53], searches: [example.com], options: [{name: ndots, value: "1"}]}
initContainers: [{name: before, image: before}]
sidecars: [{name: beside, image: beside}]
lifecycle: {preStop: {sleep: {seconds: 3}}}
envFrom: [{prefix: A_, configMapRef: {name: more}}, {secretRef: {name: secrets}}]
extraEnv: [{name: ONE, value: more}]
extraVolumes: [{name: extra, emptyDir: {}}]
extraVolumeMounts: [{name: extra, mountPath: /extra}]
`

// under returns values as YAML, below the keys of a path.
func under(t *testing.T, path string, values any) string {
	t.Helper()
	keys := strings.Split(path, ".")
	for i := len(keys) - 1; i >= 0; i-- {
		values = map[string]any{keys[i]: values}
	}
	text, err := yaml.Marshal(values)
	require.NoError(t, err)
	return string(text)
}

// owner is an object with a pod template.
type owner struct {
	annotations map[string]string
	revisions   *int32
	template    core.PodTemplateSpec
}

// owners are the permanent objects with pod templates, by name.
func owners(r *rendering) map[string]owner {
	all := map[string]owner{}
	for _, object := range r.objects {
		m, _ := meta.Accessor(object)
		one := owner{annotations: m.GetAnnotations()}
		switch o := object.(type) {
		case *apps.Deployment:
			one.revisions, one.template = o.Spec.RevisionHistoryLimit, o.Spec.Template
		case *apps.StatefulSet:
			one.revisions, one.template = o.Spec.RevisionHistoryLimit, o.Spec.Template
		case *batch.CronJob:
			one.template = o.Spec.JobTemplate.Spec.Template
		default:
			continue
		}
		all[strings.TrimPrefix(m.GetName(), fullName+"-")] = one
	}
	return all
}

// TestPodsTakeSettings sets podSettings for each component: all of its pods get them, and no other
// pod.
func TestPodsTakeSettings(t *testing.T) {
	var settings map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(podSettings), &settings))
	before := owners(render(t, fixed))
	require.Len(t, before, 4)
	for path, component := range map[string]string{"nats.server": "nats", "planner": "planner", "console": "console", "worker": "worker"} {
		t.Run(component, func(t *testing.T) {
			values := maps.Clone(settings)
			if component != "planner" {
				values["revisionHistoryLimit"] = 2
			}
			after := owners(render(t, fixed, under(t, path, values)))
			for name, was := range before {
				// The console runs the planner's commands, with its variables and volumes.
				if name != component && (name != "console" || component != "planner") {
					require.Equal(t, was, after[name], name)
				}
			}
			got := after[component]
			require.Equal(t, "object", got.annotations["example.com/note"])
			if component != "planner" {
				require.EqualValues(t, 2, *got.revisions)
			}
			require.Equal(t, "mirrors", got.template.Labels["tier"])
			require.Equal(t, "pod", got.template.Annotations["example.com/note"])
			spec := got.template.Spec
			require.Equal(t, map[string]string{"kubernetes.io/arch": "amd64"}, spec.NodeSelector)
			require.Equal(t, "mirrors", spec.Tolerations[0].Key)
			require.NotNil(t, spec.Affinity.NodeAffinity)
			require.Equal(t, "low", spec.PriorityClassName)
			require.Equal(t, "gvisor", *spec.RuntimeClassName)
			require.Equal(t, "ours", spec.SchedulerName)
			require.Equal(t, []core.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"registry.example.com"}}}, spec.HostAliases)
			require.Equal(t, core.DNSNone, spec.DNSPolicy)
			require.Equal(t, []string{"192.0.2.53"}, spec.DNSConfig.Nameservers)
			require.Equal(t, "ndots", spec.DNSConfig.Options[0].Name)
			require.Equal(t, "before", spec.InitContainers[0].Name)
			if component == "planner" {
				require.Equal(t, "beside", spec.InitContainers[1].Name, "a Job would wait for another container")
				require.Equal(t, core.ContainerRestartPolicyAlways, *spec.InitContainers[1].RestartPolicy)
			} else {
				require.Equal(t, "beside", spec.Containers[1].Name)
			}
			c := spec.Containers[0]
			require.Equal(t, &core.Lifecycle{PreStop: &core.LifecycleHandler{Sleep: &core.SleepAction{Seconds: 3}}}, c.Lifecycle)
			require.Equal(t, "A_", c.EnvFrom[0].Prefix)
			require.Equal(t, "more", c.EnvFrom[0].ConfigMapRef.Name)
			require.Equal(t, "secrets", c.EnvFrom[1].SecretRef.Name)
			require.Equal(t, "more", env(c)["ONE"])
			require.Contains(t, c.VolumeMounts, core.VolumeMount{Name: "extra", MountPath: "/extra"})
			require.Equal(t, "extra", spec.Volumes[len(spec.Volumes)-1].Name)
		})
	}
}

// TestConsoleHasThePlannersSurroundings: commands in the console read the same variables and files
// as the planner.
func TestConsoleHasThePlannersSurroundings(t *testing.T) {
	c := owners(render(t, least, `
planner:
  envFrom: [{secretRef: {name: planners}}]
  extraEnv: [{name: ONE, value: planners}]
  extraVolumes: [{name: planners, emptyDir: {}}]
  extraVolumeMounts: [{name: planners, mountPath: /planners}]
console:
  envFrom: [{secretRef: {name: own}}]
  extraEnv: [{name: TWO, value: own}]
  extraVolumes: [{name: own, emptyDir: {}}]
  extraVolumeMounts: [{name: own, mountPath: /own}]`))["console"].template.Spec.Containers[0]
	require.Equal(t, "planners", c.EnvFrom[0].SecretRef.Name)
	require.Equal(t, "own", c.EnvFrom[1].SecretRef.Name)
	require.Equal(t, [2]string{"planners", "own"}, [2]string{env(c)["ONE"], env(c)["TWO"]})
	require.Contains(t, c.VolumeMounts, core.VolumeMount{Name: "planners", MountPath: "/planners"})
	require.Contains(t, c.VolumeMounts, core.VolumeMount{Name: "own", MountPath: "/own"})
}

// TestConsoleKeepsRunning: values that the console does not use do not change its pod.
func TestConsoleKeepsRunning(t *testing.T) {
	base := fixed + "registries: {credentials: {existingSecret: registries}}\n"
	before := owners(render(t, base))["console"]
	var settings map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(podSettings), &settings))
	for name, values := range map[string]string{
		"the worker's pods":        under(t, "worker", settings),
		"the server's pods":        under(t, "nats.server", settings),
		"how workers copy":         "worker: {replicas: 5, concurrency: 3, copyEngine: builtin, maxAttempts: 9, stallTimeout: 5m, copyTimeout: 1h, skopeoPath: /skopeo}",
		"the worker's surrounding": "worker: {metricsPort: 9191, terminationGracePeriodSeconds: 60, scratch: {sizeLimit: 5Gi, medium: Memory}, resources: {limits: {memory: 4Gi}}}",
		"how workers scale":        "worker: {keda: {enabled: true, maxReplicas: 9}}",
		"the planner's pods": `planner: {podLabels: {a: b}, podAnnotations: {a: b}, nodeSelector: {a: b}, tolerations: [{operator: Exists}],
  affinity: {podAffinity: {}}, priorityClassName: low, runtimeClassName: gvisor, schedulerName: ours, hostAliases: [{ip: 192.0.2.1}],
  dnsPolicy: Default, initContainers: [{name: a, image: b}], sidecars: [{name: a, image: b}], resources: {limits: {memory: 1Gi}}}`,
		"when the planner runs": `planner: {schedule: "@hourly", suspend: true, runAtInstall: true, backoffLimit: 1, extraArgs: [--wait],
  successfulJobsHistoryLimit: 1, activeDeadlineSeconds: 60, ttlSecondsAfterFinished: 60}`,
		"the planner's image":     "planner: {image: {tag: other}}",
		"the entries of the list": "list: [other]",
		"the service account":     "serviceAccount: {annotations: {a: b}, labels: {a: b}}",
		"what watches":            "metrics: {podMonitor: {enabled: true}, rules: {enabled: true}, dashboard: {enabled: true}}",
		"who reaches it":          "networkPolicy: {enabled: true}",
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, before, owners(render(t, base, values))["console"])
		})
	}
	require.NotEqual(t, before, owners(render(t, base, "planner: {filter: v}"))["console"], "the page plans with it")
}

// TestMemoryLimitsOfGo: the garbage collector of each container knows its memory limit.
func TestMemoryLimitsOfGo(t *testing.T) {
	limit := func(component string, values ...string) string {
		return env(owners(render(t, append([]string{least}, values...)...))[component].template.Spec.Containers[0])["GOMEMLIMIT"]
	}
	require.Equal(t, "921MiB", limit("nats"))
	require.Equal(t, "460MiB", limit("planner"))
	require.Equal(t, "460MiB", limit("console"))
	require.Equal(t, "1024MiB", limit("worker"), "skopeo's processes have the other half")
	require.Equal(t, "1843MiB", limit("worker", "worker: {copyEngine: builtin}"))
	for memory, want := range map[string]string{
		"1Gi": "512MiB", "1.5Gi": "768MiB", "1000M": "476MiB", "2147483648": "1024MiB", `"2147483648"`: "1024MiB",
		"1e9": "476MiB", `"1e9"`: "", "null": "", "100m": "",
	} {
		require.Equal(t, want, limit("worker", "worker: {resources: {limits: {memory: "+memory+"}}}"), memory)
	}
	for _, values := range []string{"extraEnv: [{name: GOMEMLIMIT, value: 1GiB}]", "worker: {extraEnv: [{name: GOMEMLIMIT, value: 1GiB}]}"} {
		found := 0
		for _, e := range worker(t, render(t, least, values)).Template.Spec.Containers[0].Env {
			if e.Name == "GOMEMLIMIT" {
				require.Equal(t, "1GiB", e.Value)
				found++
			}
		}
		require.Equal(t, 1, found)
	}
}

// TestEphemeralStorageIsLimited: no pod fills the disk of its node, and the scheduler knows the
// limit.
func TestEphemeralStorageIsLimited(t *testing.T) {
	for name, o := range owners(render(t, least)) {
		resources := o.template.Spec.Containers[0].Resources
		require.Positive(t, resources.Requests.StorageEphemeral().Value(), name)
		require.Positive(t, resources.Limits.StorageEphemeral().Value(), name)
	}
	set := owners(render(t, least, "nats: {server: {persistence: {enabled: false, size: 2Gi}}}"))["nats"].template.Spec
	require.NotContains(t, set.Containers[0].Resources.Limits, core.ResourceEphemeralStorage, "the store is part of it")
	require.Equal(t, "2Gi", set.Volumes[1].EmptyDir.SizeLimit.String())
}

// TestJobsEnd: a Job that hangs is ended, and Jobs that ended are deleted.
func TestJobsEnd(t *testing.T) {
	job := func(values string) batch.JobSpec {
		return find[*batch.CronJob](t, render(t, least, values), "planner").Spec.JobTemplate.Spec
	}
	require.Nil(t, job("{}").ActiveDeadlineSeconds)
	require.Nil(t, job("{}").TTLSecondsAfterFinished)
	set := job("planner: {activeDeadlineSeconds: 100000000, ttlSecondsAfterFinished: 0}")
	require.EqualValues(t, 100000000, *set.ActiveDeadlineSeconds)
	require.Zero(t, *set.TTLSecondsAfterFinished)
}

func TestPullSecrets(t *testing.T) {
	for values, want := range map[string][]core.LocalObjectReference{
		"{}":                              nil,
		"image: {pullSecrets: [a, b]}":    {{Name: "a"}, {Name: "b"}},
		"global: {imagePullSecrets: [a]}": {{Name: "a"}},
		"global: {imagePullSecrets: [{name: a}, b]}\nimage: {pullSecrets: [b, c]}": {{Name: "a"}, {Name: "b"}, {Name: "c"}},
	} {
		for _, p := range pods(render(t, least, values)) {
			require.Equal(t, want, p.spec.ImagePullSecrets, p.owner)
		}
	}
}

func TestServiceAccount(t *testing.T) {
	account := find[*core.ServiceAccount](t, render(t, least, "serviceAccount: {name: mirrors, labels: {azure.workload.identity/use: 'true'}, annotations: {a: b}}"), "mirrors")
	require.Equal(t, "true", account.Labels["azure.workload.identity/use"])
	require.Equal(t, "b", account.Annotations["a"])
	require.False(t, *account.AutomountServiceAccountToken)
}
