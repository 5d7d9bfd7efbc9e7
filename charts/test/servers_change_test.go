package charttest

import (
	"testing"

	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestServersKeepWhatCannotChange: Helm refuses changes that Kubernetes would refuse in the middle
// of an upgrade, and those that would lose the queue. The error says what to do.
func TestServersKeepWhatCannotChange(t *testing.T) {
	const kept = "nats: {server: {persistence: {size: 5Gi, storageClass: fast, annotations: {a: b}}}}"
	there := func(values string) options {
		set := find[*apps.StatefulSet](t, render(t, least, values), "nats")
		return options{upgrade: true, cluster: cluster{objects: []runtime.Object{set}}}
	}
	for values, message := range map[string]string{
		"{}":                                     "",
		"nats: {server: {tls: {enabled: true}}}": "",
		"nats: {server: {persistence: {size: 5120Mi}}}": "",
		"nats: {server: {replicas: 3}}":                 "nats.server.replicas cannot be changed from 1 to 3: the queue would be lost",
		"nats: {server: {persistence: {size: 10Gi}}}": "nats.server.persistence.size cannot be changed from 5Gi to 10Gi by Helm: Kubernetes refuses it. " +
			"To grow the volumes, grow each claim first: kubectl -n mirrors edit pvc -l app.kubernetes.io/instance=mirror,app.kubernetes.io/component=nats. " +
			"Run kubectl -n mirrors delete sts mirror-skopeo-worker-nats --cascade=orphan, and upgrade again",
		"nats: {server: {persistence: {size: 1Gi}}}":             "nats.server.persistence.size cannot be changed from 5Gi to 1Gi by Helm",
		"nats: {server: {persistence: {storageClass: slow}}}":    `nats.server.persistence.storageClass cannot be changed from "fast" to "slow"`,
		"nats: {server: {persistence: {annotations: {a: c}}}}":   "nats.server.persistence.annotations cannot be changed by Helm",
		"nats: {server: {persistence: {enabled: false}}}":        "nats.server.persistence.enabled cannot be changed",
		"nats: {install: false, url: 'nats://nats.example.com'}": "",
	} {
		t.Run(values, func(t *testing.T) {
			_, err := try(there(kept), least, kept, values)
			if message == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, message)
		})
	}
	_, err := try(there("nats: {server: {persistence: {enabled: false}}}"), least, kept)
	require.ErrorContains(t, err, "nats.server.persistence.enabled cannot be changed")
}

func TestThreeServersAreOnThreeNodes(t *testing.T) {
	spread := func(values ...string) []core.TopologySpreadConstraint {
		return find[*apps.StatefulSet](t, render(t, append([]string{least}, values...)...), "nats").Spec.Template.Spec.TopologySpreadConstraints
	}
	require.Empty(t, spread())
	three := spread("nats: {server: {replicas: 3}}")
	require.Len(t, three, 2)
	require.Equal(t, "kubernetes.io/hostname", three[0].TopologyKey)
	require.Equal(t, core.DoNotSchedule, three[0].WhenUnsatisfiable)
	require.EqualValues(t, 1, three[0].MaxSkew)
	require.Equal(t, "topology.kubernetes.io/zone", three[1].TopologyKey)
	require.Equal(t, core.ScheduleAnyway, three[1].WhenUnsatisfiable)
	for _, c := range three {
		require.Equal(t, "nats", c.LabelSelector.MatchLabels["app.kubernetes.io/component"])
	}
	require.Empty(t, spread("nats: {server: {replicas: 3, topologySpreadConstraints: []}}"))
	own := spread("nats: {server: {replicas: 3, topologySpreadConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]}}")
	require.Len(t, own, 1)
	require.Equal(t, "rack", own[0].TopologyKey)
}
