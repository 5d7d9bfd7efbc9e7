// Package charttest renders the chart as Helm does, and tests the result.
package charttest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	chartDir = "../skopeo-worker"
	fullName = "mirror-skopeo-worker"
)

// kubeVersion is the oldest version of Kubernetes with which the project is tested.
var kubeVersion = chartutil.KubeVersion{Version: "v1.32.0", Major: "1", Minor: "32"}

// least are the values that the chart requires.
const least = `
destination: registry.example.com/mirror
list: [quay.io/osism/osism]
nats: {install: true}
`

// rendering is what Helm would send to a cluster.
type rendering struct {
	objects []runtime.Object
	notes   string
}

// options are what may differ between two renderings.
type options struct {
	upgrade bool
	cluster engine.ClientProvider
	change  func(*chart.Chart)
}

// try renders the chart with values on top of the defaults. Later texts of values override earlier
// ones.
func try(o options, values ...string) (*rendering, error) {
	c, err := loader.Load(chartDir)
	if err != nil {
		return nil, err
	}
	if o.change != nil {
		o.change(c)
	}
	all := map[string]any{}
	for _, text := range values {
		v, err := chartutil.ReadValues([]byte(text))
		if err != nil {
			return nil, err
		}
		all = chartutil.CoalesceTables(v, all)
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = kubeVersion
	with, err := chartutil.ToRenderValues(c, all, chartutil.ReleaseOptions{
		Name: "mirror", Namespace: "mirrors", Revision: 1, IsInstall: !o.upgrade, IsUpgrade: o.upgrade,
	}, capabilities)
	if err != nil {
		return nil, err
	}
	var files map[string]string
	if o.cluster != nil {
		files, err = engine.RenderWithClientProvider(c, with, o.cluster)
	} else {
		files, err = engine.Render(c, with)
	}
	if err != nil {
		return nil, err
	}
	r := &rendering{}
	for name, text := range files {
		if filepath.Base(name) == "NOTES.txt" {
			r.notes = text
			continue
		}
		objects, err := decode(text)
		if err != nil {
			return nil, errors.Join(errors.New(name), err)
		}
		r.objects = append(r.objects, objects...)
	}
	return r, nil
}

func render(t *testing.T, values ...string) *rendering {
	t.Helper()
	return renderWith(t, options{}, values...)
}

func renderWith(t *testing.T, o options, values ...string) *rendering {
	t.Helper()
	r, err := try(o, values...)
	require.NoError(t, err)
	return r
}

var types = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, monitoring.AddToScheme, gateway.Install, certmanager.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	s.AddKnownTypeWithName(schema.GroupVersionKind{Group: "keda.sh", Version: "v1alpha1", Kind: "ScaledObject"}, &ScaledObject{})
	return s
}()

// strict refuses unknown and duplicate keys.
var strict = json.NewSerializerWithOptions(json.DefaultMetaFactory, types, types, json.SerializerOptions{Yaml: true, Strict: true})

// decode reads YAML documents as API objects.
func decode(text string) ([]runtime.Object, error) {
	var objects []runtime.Object
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if empty(document) {
			continue
		}
		object, _, err := strict.Decode(document, nil, nil)
		if err != nil {
			return nil, errors.Join(err, errors.New(string(document)))
		}
		objects = append(objects, object)
	}
}

func empty(document []byte) bool {
	for line := range bytes.Lines(document) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// find returns the object of a type with a name. The name may lack the prefix of the release.
func find[T runtime.Object](t *testing.T, r *rendering, name string) T {
	t.Helper()
	var names []string
	for _, object := range r.objects {
		if typed, ok := object.(T); ok {
			m, err := meta.Accessor(object)
			require.NoError(t, err)
			if m.GetName() == name || m.GetName() == fullName+"-"+name {
				return typed
			}
			names = append(names, m.GetName())
		}
	}
	require.FailNow(t, "no such object", "%T %s; there are %v", *new(T), name, names)
	return *new(T)
}

// has reports whether there is an object of a type.
func has[T runtime.Object](r *rendering) bool {
	for _, object := range r.objects {
		if _, ok := object.(T); ok {
			return true
		}
	}
	return false
}
