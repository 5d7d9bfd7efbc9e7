package charttest

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	core "k8s.io/api/core/v1"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// programs builds planner and worker once, into a folder. They are in other modules.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := folder()
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-ldflags=-w", "-tags", "containers_image_openpgp", "-o", dir+string(filepath.Separator), "./planner", "./worker")
	build.Dir, build.Env = "../..", append(os.Environ(), "GOWORK=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// container runs a container of a pod as a process of the real program, with its variables and
// files, but with addresses and folders of this machine.
type container struct {
	t       *testing.T
	command *exec.Cmd
	out     *output
}

// output can be written to and read at the same time.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// newContainer prepares the first container of a pod. Its program is name, unless the container has
// a command. Its volumes are folders with the rendered content.
func newContainer(t *testing.T, r *rendering, spec core.PodSpec, name string, broker *served) *container {
	t.Helper()
	dir, err := programs()
	require.NoError(t, err)
	c, root := spec.Containers[0], t.TempDir()
	for _, m := range c.VolumeMounts {
		at := filepath.Join(root, m.MountPath)
		require.NoError(t, os.MkdirAll(at, 0o700))
		for _, v := range spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			if v.ConfigMap != nil {
				for key, text := range find[*core.ConfigMap](t, r, v.ConfigMap.Name).Data {
					require.NoError(t, os.WriteFile(filepath.Join(at, key), []byte(text), 0o600))
				}
			}
			if v.Secret != nil {
				for _, item := range v.Secret.Items {
					secret := find[*core.Secret](t, r, v.Secret.SecretName)
					data := append(secret.Data[item.Key], secret.StringData[item.Key]...)
					require.NotEmpty(t, data, item.Key)
					require.NoError(t, os.WriteFile(filepath.Join(at, item.Path), data, 0o600))
				}
			}
		}
	}
	arguments := slices.Concat(c.Command, c.Args)
	if len(c.Command) == 0 {
		arguments = append([]string{name}, c.Args...)
	}
	out := &output{}
	command := exec.Command(filepath.Join(dir, arguments[0]), arguments[1:]...)
	command.Dir, command.Stdout, command.Stderr = root, out, out
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "NATS_USER=mirror", "NATS_PASSWORD=secret"}
	for _, e := range c.Env {
		if e.ValueFrom != nil {
			continue // the broker's user and password
		}
		value := strings.ReplaceAll(e.Value, fullName+"-nats.mirrors.svc:4222", broker.url)
		for _, m := range c.VolumeMounts {
			folders := strings.Split(value, ":")
			for i, folder := range folders {
				if folder == m.MountPath || strings.HasPrefix(folder, m.MountPath+"/") {
					folders[i] = root + folder
				}
			}
			value = strings.Join(folders, ":")
		}
		if strings.HasSuffix(e.Name, "_ADDR") {
			value = fmt.Sprintf("127.0.0.1:%d", brokertest.FreePort(t))
		}
		command.Env = append(command.Env, e.Name+"="+value)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return &container{t: t, command: command, out: out}
}

// exits runs the container to its end and requires the exit code.
func (c *container) exits(code int) string {
	c.t.Helper()
	err := c.command.Run()
	exit := (*exec.ExitError)(nil)
	if err != nil {
		require.True(c.t, errors.As(err, &exit), "%v", err)
	}
	require.Equal(c.t, code, c.command.ProcessState.ExitCode(), c.out.String())
	return c.out.String()
}

// start starts the container, and stops it as Kubernetes does when the test ends.
func (c *container) start() {
	c.t.Helper()
	require.NoError(c.t, c.command.Start())
	c.t.Cleanup(func() {
		_ = c.command.Process.Signal(syscall.SIGTERM)
		_ = c.command.Wait()
	})
}

// ready waits until the container's readiness probe succeeds.
func (c *container) ready(spec core.PodSpec) {
	c.t.Helper()
	probe := spec.Containers[0].ReadinessProbe.HTTPGet
	address := ""
	for _, e := range c.command.Env {
		if value, ok := strings.CutPrefix(e, "METRICS_ADDR="); ok {
			address = value
		}
	}
	require.Eventually(c.t, func() bool {
		response, err := http.Get("http://" + address + probe.Path)
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, patience, 50*time.Millisecond)
}

// TestContainersRun: the commands accept the arguments, variables and files of the chart, and reach
// the chart's broker over TLS with them.
func TestContainersRun(t *testing.T) {
	t.Parallel()
	r := render(t, `
destination: 127.0.0.1:1/mirror
list: ["127.0.0.1:1/team/app:1"]
registries: {insecure: ["127.0.0.1:1"], rateLimits: {docker.io: 100/6h}}
planner: {chunkInterval: 10m, filter: v, platforms: [linux/amd64]}
nats: {install: true, server: {tls: {enabled: true}}}`)
	broker := serve(t, r)[0]
	all := owners(r)

	// Settings of the copy engine are not in the console's environment.
	for _, name := range []string{"worker", "console"} {
		spec := all[name].template.Spec
		c := newContainer(t, r, spec, "worker", broker)
		c.start()
		c.ready(spec)
		require.NotContains(t, c.out.String(), "WARN")
	}
	said := newContainer(t, r, all["planner"].template.Spec, "planner", broker).exits(0)
	require.Contains(t, said, "1 entry in 1 chunk")
	require.NotContains(t, said, "warning")

	// helm test reports that no registry listens there.
	said = newContainer(t, r, find[*core.Pod](t, r, "test").Spec, "planner", broker).exits(1)
	require.Contains(t, said, "list.yaml: 1 entry\nbroker: tls://")
	require.Contains(t, said, "FAILED: 127.0.0.1:1 (destination): ")
}

// TestPlannerListsPrivateNamespaces: planning lists a namespace with the registry's login, and
// trusts the registry's certificate because of the CA bundle.
func TestPlannerListsPrivateNamespaces(t *testing.T) {
	t.Parallel()
	registry := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "planner" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors": [{"code": "UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		_, _ = fmt.Fprint(w, `{"repositories": ["other/app", "team/app", "team/web"]}`)
	}))
	t.Cleanup(registry.Close)
	host := registry.Listener.Addr().String()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registry.Certificate().Raw})
	values := fmt.Sprintf("destination: 127.0.0.1:1/mirror\nlist: [\"%s/team/*\"]\ncaBundle: {pem: %q}\nnats: {install: true}\n", host, ca)
	for login, want := range map[string]struct {
		code int
		said string
	}{
		fmt.Sprintf("registries: {credentials: {logins: {%q: {username: planner, password: secret}}}}", host): {0, "2 entries in 1 chunk"},
		"{}": {3, "401"},
	} {
		r := render(t, values, login)
		spec := owners(r)["planner"].template.Spec
		require.Contains(t, newContainer(t, r, spec, "planner", serve(t, r)[0]).exits(want.code), want.said)
	}
}
