package charttest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// cases are the values with which the tests of general rules render the chart: minimal ones, all of
// them, every example, and those that CI installs.
func cases(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{"least": least}
	examples, err := filepath.Glob(filepath.Join(chartDir, "examples", "*.yaml"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(examples), 4)
	installed, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	require.NoError(t, err)
	require.Len(t, installed, 2)
	for _, file := range slices.Concat(examples, installed, []string{"everything.yaml"}) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		all[filepath.Base(file)] = string(text)
	}
	return all
}

func TestLintIsStrict(t *testing.T) {
	for name, text := range cases(t) {
		t.Run(name, func(t *testing.T) {
			values, err := chartutil.ReadValues([]byte(text))
			require.NoError(t, err)
			for _, m := range lint.AllWithKubeVersion(chartDir, values, "mirrors", &kubeVersion).Messages {
				require.Less(t, m.Severity, support.WarningSev, m.Error())
			}
		})
	}
}

// pod is a pod template, with the object that has it.
type pod struct {
	owner string
	spec  core.PodSpec
	label map[string]string
}

func pods(r *rendering) []pod {
	var all []pod
	add := func(o runtime.Object, labels map[string]string, spec core.PodSpec) {
		m, _ := meta.Accessor(o)
		all = append(all, pod{owner: m.GetName(), spec: spec, label: labels})
	}
	for _, object := range r.objects {
		switch o := object.(type) {
		case *apps.Deployment:
			add(o, o.Spec.Template.Labels, o.Spec.Template.Spec)
		case *apps.StatefulSet:
			add(o, o.Spec.Template.Labels, o.Spec.Template.Spec)
		case *batch.Job:
			add(o, o.Spec.Template.Labels, o.Spec.Template.Spec)
		case *batch.CronJob:
			add(o, o.Spec.JobTemplate.Spec.Template.Labels, o.Spec.JobTemplate.Spec.Template.Spec)
		case *core.Pod:
			add(o, o.Labels, o.Spec)
		}
	}
	return all
}

func TestPodsAreRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	for name, text := range cases(t) {
		t.Run(name, func(t *testing.T) {
			for _, p := range pods(render(t, text)) {
				for _, version := range []api.Version{api.MajorMinorVersion(1, 32), api.LatestVersion()} {
					results := evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: version}, &metav1.ObjectMeta{}, &p.spec)
					verdict := policy.AggregateCheckResults(results)
					require.True(t, verdict.Allowed, "%s at %s: %s", p.owner, version.String(), verdict.ForbiddenDetail())
				}
				require.False(t, *p.spec.AutomountServiceAccountToken, p.owner)
				require.Positive(t, *p.spec.SecurityContext.RunAsUser, p.owner)
				for _, c := range p.spec.Containers {
					require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem, p.owner)
					require.NotEmpty(t, c.Resources.Requests, p.owner)
					require.NotEmpty(t, c.Resources.Limits, p.owner)
				}
			}
		})
	}
}

func TestEveryObjectIsLabelled(t *testing.T) {
	everything := cases(t)["everything.yaml"]
	for _, object := range render(t, everything).objects {
		m, err := meta.Accessor(object)
		require.NoError(t, err)
		if strings.HasPrefix(m.GetName(), "mirror-extra") || strings.HasPrefix(m.GetName(), "mirror-more") {
			continue
		}
		require.Equal(t, "mirrors", m.GetNamespace(), m.GetName())
		require.Equal(t, "skopeo-worker", m.GetLabels()["app.kubernetes.io/name"], m.GetName())
		require.Equal(t, "platform", m.GetLabels()["app.kubernetes.io/part-of"], m.GetName())
		require.Equal(t, "mirrors", m.GetLabels()["team"], m.GetName())
		require.Equal(t, "mirrors", m.GetAnnotations()["example.com/owner"], m.GetName())
		require.LessOrEqual(t, len(m.GetName()), 52, "a CronJob's name")
	}
	for _, p := range pods(render(t, everything)) {
		require.Equal(t, "mirrors", p.label["team"], p.owner)
	}
}

func TestLongNamesStayValid(t *testing.T) {
	long := strings.Repeat("x", 53)
	for _, object := range render(t, cases(t)["everything.yaml"], "fullnameOverride: "+long).objects {
		m, err := meta.Accessor(object)
		require.NoError(t, err)
		require.LessOrEqual(t, len(m.GetName()), 57, m.GetName())
		if _, ok := object.(*batch.CronJob); ok {
			require.LessOrEqual(t, len(m.GetName()), 52, m.GetName())
		}
	}
}

// Fields that an API server refuses to change must depend neither on the version nor on labels, or
// an upgrade would fail.
func TestUpgradeChangesNothingImmutable(t *testing.T) {
	type immutable struct{ Selectors, Claims any }
	of := func(r *rendering) map[string]immutable {
		found := map[string]immutable{}
		for _, object := range r.objects {
			switch o := object.(type) {
			case *apps.Deployment:
				found[o.Name] = immutable{Selectors: o.Spec.Selector}
			case *apps.StatefulSet:
				found[o.Name] = immutable{o.Spec.Selector, []any{o.Spec.VolumeClaimTemplates, o.Spec.ServiceName, o.Spec.PodManagementPolicy}}
			case *batch.Job:
				found[o.Name] = immutable{Selectors: o.Spec.Template}
			}
		}
		return found
	}
	before := of(renderWith(t, options{upgrade: true}, least))
	after := of(renderWith(t, options{upgrade: true, change: func(c *chart.Chart) {
		c.Metadata.Version, c.Metadata.AppVersion = "9.9.9", "9.9.9"
	}}, least, "commonLabels: {team: mirrors}\nworker: {replicas: 4}\nimage: {tag: 9.9.9}"))
	require.Equal(t, before, after)
	require.Len(t, before, 3, "worker, console, nats: a Job is not part of an upgrade")
}

func TestSecretsAreOnlyInSecrets(t *testing.T) {
	secrets := []string{"secret-one", "secretTwo", "secret-three", "secret-four", "c2VjcmV0LW9uZQ"}
	r := render(t, least, `
registries: {credentials: {logins: {quay.io: {username: u, password: secret-one}}}}
nats: {auth: {password: secretTwo}}
metrics: {rules: {enabled: true}, dashboard: {enabled: true}}`)
	external := render(t, `
destination: registry.example.com
list: [quay.io/osism/osism]
registries: {credentials: {authFile: '{"auths":{"quay.io":{"auth":"secret-three"}}}'}}
nats: {url: "nats://nats:4222", auth: {type: token, token: secret-four}}`)
	seen := 0
	for _, object := range append(r.objects, external.objects...) {
		text, err := yaml.Marshal(object)
		require.NoError(t, err)
		if _, ok := object.(*core.Secret); ok {
			seen++
			continue
		}
		for _, s := range secrets {
			require.NotContains(t, string(text), s)
		}
	}
	require.Equal(t, 4, seen)
	for _, s := range secrets {
		require.NotContains(t, r.notes+external.notes, s)
	}
}

// Every documented variable can be set by a value.
func TestEveryVariableCanBeSet(t *testing.T) {
	var text []byte
	for _, page := range []string{"configuration.md", "page.md"} {
		read, err := os.ReadFile("../../docs/" + page)
		require.NoError(t, err)
		text = append(text, read...)
	}
	set := map[string]bool{
		"DATA_DIR":        true, // for the embedded broker, which is not used in a cluster
		"MIRROR_SCHEDULE": true, // because a CronJob plans
	}
	for _, values := range append([]string{cases(t)["everything.yaml"], least + "console: {trustProxy: X-User}"}, authentications...) {
		for _, p := range pods(render(t, values)) {
			for _, c := range p.spec.Containers {
				for _, e := range c.Env {
					set[e.Name] = true
				}
			}
		}
	}
	variables := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for name := range strings.SplitSeq(cells[1], ",") {
			if name = strings.TrimSpace(name); name != "" && strings.ToUpper(name) == name && !strings.HasPrefix(name, "-") {
				variables++
				require.True(t, set[name], "%s is not set by any value", name)
			}
		}
	}
	require.Greater(t, variables, 25)
}
