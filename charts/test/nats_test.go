package charttest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// outside are values with an existing broker and all of its settings.
func outside(more string) string {
	return fmt.Sprintf(`
destination: registry.example.com/mirror
list: [quay.io/osism/osism]
nats: {url: "nats://nats.example.com:4222"%s}`, more)
}

// authentications are all ways to authenticate to a broker, with an existing Secret and with one
// that the chart makes.
var authentications = []string{
	outside(", auth: {type: creds, existingSecret: mine}"), outside(", auth: {type: creds, creds: text}"),
	outside(", auth: {type: nkey, existingSecret: mine}"), outside(", auth: {type: nkey, nkey: text}"),
	outside(", auth: {type: user, existingSecret: mine}"), outside(", auth: {type: user, user: u, password: text}"),
	outside(", auth: {type: token, existingSecret: mine}"), outside(", auth: {type: token, token: text}"),
	outside(", tls: {existingSecret: mine, clientCertificate: true}"), outside(", tls: {ca: text, cert: text, key: text}"),
	outside(", tls: {existingSecret: mine}"), outside(", tls: {ca: text}"),
}

// Each variable of NATS refers to a key that the Secret has, or optionally may have.
func TestNATSCredentialsAreFound(t *testing.T) {
	for _, values := range authentications {
		t.Run(values[strings.LastIndex(values, "4222")+6:], func(t *testing.T) {
			r := render(t, values)
			spec := worker(t, r).Template.Spec
			c := spec.Containers[0]
			found := 0
			for _, e := range c.Env {
				if e.Name == "NATS_URL" || e.Name == "NATS_REPLICAS" || !strings.HasPrefix(e.Name, "NATS_") {
					continue
				}
				found++
				secret, key := "", ""
				if e.ValueFrom != nil {
					secret, key = e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Key
				}
				for i := range c.VolumeMounts {
					source := spec.Volumes[i].Secret
					if path, ok := strings.CutPrefix(e.Value, c.VolumeMounts[i].MountPath+"/"); ok && source != nil {
						require.Equal(t, c.VolumeMounts[i].Name, spec.Volumes[i].Name)
						require.Contains(t, source.Items, core.KeyToPath{Key: path, Path: path})
						secret, key = source.SecretName, path
					}
				}
				require.NotEmpty(t, secret, "%s leads nowhere", e.Name)
				if secret != "mine" {
					require.NotEmpty(t, find[*core.Secret](t, r, secret).StringData[key], e.Name)
				}
			}
			require.Positive(t, found)
		})
	}
	require.False(t, has[*core.Secret](render(t, outside(""))), "nothing to tell")
}

// natsConf is the configuration file of the servers.
func natsConf(t *testing.T, r *rendering) string {
	t.Helper()
	return find[*core.ConfigMap](t, r, "nats").Data["nats.conf"]
}

// configuration is what a server reads from its file, with the environment of its pod.
func configuration(t *testing.T, r *rendering, user, password string) map[string]any {
	t.Helper()
	values := map[string]string{"POD_NAME": fullName + "-nats-0", "NATS_USER": user, "NATS_PASSWORD": password}
	for _, e := range find[*apps.StatefulSet](t, r, "nats").Spec.Template.Spec.Containers[0].Env {
		if e.ValueFrom == nil {
			values[e.Name] = strings.NewReplacer("$(NATS_USER)", user, "$(NATS_PASSWORD)", password).Replace(e.Value)
		}
	}
	for name, value := range values {
		t.Setenv(name, value)
	}
	parsed, err := conf.Parse(natsConf(t, r))
	require.NoError(t, err)
	return parsed
}

func TestServerAsksForAPassword(t *testing.T) {
	// Unquoted, a password could be read as a number with a unit, or as a boolean.
	for _, password := range []string{"1k", "007", "true", "0x1f", "1e9"} {
		c := configuration(t, render(t, least), "mirror", password)
		require.Equal(t, map[string]any{"user": "mirror", "password": password}, c["authorization"])
		require.NotContains(t, c, "cluster")
		require.Equal(t, int64(4<<30), c["jetstream"].(map[string]any)["max_file_store"])
	}
}

func TestThreeServers(t *testing.T) {
	r := render(t, least, "nats: {server: {replicas: 3}}")
	cluster := configuration(t, r, "mirror", "secret")["cluster"].(map[string]any)
	require.Equal(t, []any{
		"nats://mirror:secret@mirror-skopeo-worker-nats-0.mirror-skopeo-worker-nats-headless:6222",
		"nats://mirror:secret@mirror-skopeo-worker-nats-1.mirror-skopeo-worker-nats-headless:6222",
		"nats://mirror:secret@mirror-skopeo-worker-nats-2.mirror-skopeo-worker-nats-headless:6222",
	}, cluster["routes"])
	require.Equal(t, map[string]any{"user": "mirror", "password": "secret"}, cluster["authorization"])

	set := find[*apps.StatefulSet](t, r, "nats").Spec
	require.Equal(t, int32(3), *set.Replicas)
	require.Equal(t, apps.ParallelPodManagement, set.PodManagementPolicy, "none is ready before there are two")
	require.Equal(t, set.Selector, find[*policy.PodDisruptionBudget](t, r, "nats").Spec.Selector)
	headless := find[*core.Service](t, r, set.ServiceName)
	require.True(t, headless.Spec.PublishNotReadyAddresses)
	require.Equal(t, "3", env(worker(t, r).Template.Spec.Containers[0])["NATS_REPLICAS"])
	require.Equal(t, "1", env(worker(t, render(t, least)).Template.Spec.Containers[0])["NATS_REPLICAS"])
}

func TestClientsReachTheServer(t *testing.T) {
	r := render(t, least)
	got := env(worker(t, r).Template.Spec.Containers[0])
	require.Equal(t, "nats://mirror-skopeo-worker-nats.mirrors.svc:4222", got["NATS_URL"])
	service := find[*core.Service](t, r, "nats").Spec
	set := find[*apps.StatefulSet](t, r, "nats").Spec
	require.Equal(t, set.Selector.MatchLabels, service.Selector)
	require.Equal(t, "nats", service.Ports[0].TargetPort.String())
	require.Equal(t, env(set.Template.Spec.Containers[0])["NATS_PASSWORD"], got["NATS_PASSWORD"])
}

func TestServerKeepsItsVolume(t *testing.T) {
	set := find[*apps.StatefulSet](t, render(t, least), "nats").Spec
	require.Equal(t, "5Gi", set.VolumeClaimTemplates[0].Spec.Resources.Requests.Storage().String())
	require.Nil(t, set.PersistentVolumeClaimRetentionPolicy, "claims are kept when nobody says otherwise")

	off := render(t, least, "nats: {server: {persistence: {enabled: false}}}")
	set = find[*apps.StatefulSet](t, off, "nats").Spec
	require.Empty(t, set.VolumeClaimTemplates)
	require.NotNil(t, set.Template.Spec.Volumes[1].EmptyDir)
	require.Contains(t, off.notes, "WARNING: nats.server.persistence is off")
}

// cluster has the objects that lookup returns.
type cluster struct {
	dynamic.NamespaceableResourceInterface
	objects []runtime.Object
	kind    string
}

func (c cluster) GetClientFor(_, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	c.kind = kind
	return c, true, nil
}

func (c cluster) Namespace(string) dynamic.ResourceInterface { return c }

func (c cluster) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	for _, object := range c.objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return nil, err
		}
		u := &unstructured.Unstructured{Object: content}
		if u.GetKind() == c.kind && u.GetName() == name {
			return u, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{}, name)
}

func TestPasswordIsKept(t *testing.T) {
	first := renderWith(t, options{cluster: cluster{}}, least)
	secret := find[*core.Secret](t, first, "nats-auth")
	password := secret.StringData["password"]
	require.Len(t, password, 40)
	require.NotEqual(t, password, find[*core.Secret](t, render(t, least), "nats-auth").StringData["password"])

	stored := secret.DeepCopy()
	stored.Data = map[string][]byte{"user": []byte("mirror"), "password": []byte(password)}
	stored.StringData = nil
	second := renderWith(t, options{upgrade: true, cluster: cluster{objects: []runtime.Object{stored}}}, least)
	require.Equal(t, password, find[*core.Secret](t, second, "nats-auth").StringData["password"])

	// No pod is restarted because of it.
	require.Equal(t, worker(t, first).Template, worker(t, second).Template)
	require.Equal(t, find[*apps.StatefulSet](t, first, "nats").Spec, find[*apps.StatefulSet](t, second, "nats").Spec)

	given := renderWith(t, options{upgrade: true, cluster: cluster{objects: []runtime.Object{stored}}}, least, "nats: {auth: {password: changed}}")
	require.Equal(t, "changed", find[*core.Secret](t, given, "nats-auth").StringData["password"])
	require.NotEqual(t, worker(t, first).Template.Annotations, worker(t, given).Template.Annotations, "pods get the new one")
}
