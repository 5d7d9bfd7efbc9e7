package containers_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const password = "hunter2"

// isolate sets all variables that name configuration to a new folder.
func isolate(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	for _, name := range []string{"REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "CONTAINERS_REGISTRIES_CONF", "CONTAINERS_REGISTRIES_CONF_OVERRIDE"} {
		t.Setenv(name, "") // restores it after the test
		require.NoError(t, os.Unsetenv(name))
	}
	containers.New(cloud.New()).Forget("") // forgets the registries.conf of another test
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// helper writes a credential helper, which answers with the user and secret in a file, and
// counts its runs.
func helper(t *testing.T, dir, name, script string) (calls func() int) {
	t.Helper()
	asked := filepath.Join(dir, name+".asked")
	write(t, filepath.Join(dir, "docker-credential-"+name), "#!/bin/sh\necho >>'"+asked+"'\n"+script+"\n")
	require.NoError(t, os.Chmod(filepath.Join(dir, "docker-credential-"+name), 0o700))
	return func() int {
		content, err := os.ReadFile(asked)
		if err != nil {
			return 0
		}
		return len(content)
	}
}

// answers returns a script that answers with a user whose name contains the server.
func answers(user string) string {
	return `read server; printf '{"ServerURL":"%s","Username":"` + user + ` of %s","Secret":"` + password + `"}' "$server" "$server"`
}

// entry returns an item of "auths".
func entry(key, user string) string {
	return fmt.Sprintf(`%q:{"auth":%q}`, key, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func auths(entries ...string) string { return `{"auths":{` + strings.Join(entries, ",") + `}}` }

// user returns the user in the credentials of a repository; "" if it has none.
func user(t *testing.T, k *containers.Keychain, repository string) string {
	t.Helper()
	found, err := k.Find(t.Context(), repository)
	require.NoError(t, err)
	if found.Username != "" {
		require.Equal(t, password, found.Password)
		require.NotEmpty(t, found.Origin)
	}
	return found.Username
}

func TestOrderOfFiles(t *testing.T) {
	dir := isolate(t)
	require.Empty(t, user(t, containers.New(cloud.New()), "quay.io/a/b"))
	write(t, filepath.Join(dir, ".dockercfg"), "{"+entry("https://quay.io/v1/", "legacy")+"}")
	require.Equal(t, "legacy", user(t, containers.New(cloud.New()), "quay.io/a/b"))
	for _, at := range []struct{ path, user string }{ // in reverse order
		{".docker/config.json", "docker"},
		{".config/containers/auth.json", "config"},
		{"run/containers/auth.json", "runtime"},
	} {
		write(t, filepath.Join(dir, at.path), auths(entry("quay.io", at.user)))
		require.Equal(t, at.user, user(t, containers.New(cloud.New()), "quay.io/a/b"))
	}
	write(t, filepath.Join(dir, ".docker/config.json"), auths(entry("ghcr.io", "docker")))
	require.Equal(t, "docker", user(t, containers.New(cloud.New()), "ghcr.io/a"), "files before it know nothing of ghcr.io")

	t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "elsewhere"))
	require.Empty(t, user(t, containers.New(cloud.New()), "ghcr.io/a"))
	write(t, filepath.Join(dir, "elsewhere/config.json"), auths(entry("ghcr.io", "elsewhere")))
	require.Equal(t, "elsewhere", user(t, containers.New(cloud.New()), "ghcr.io/a"))

	write(t, filepath.Join(dir, "named.json"), auths(entry("quay.io", "named")))
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "named.json"))
	require.Equal(t, "named", user(t, containers.New(cloud.New()), "quay.io/a/b"))
	require.Empty(t, user(t, containers.New(cloud.New()), "ghcr.io/a"), "no other file counts")
}

// TestScopes: of several entries that contain a repository, that with the longest path counts, and is
// the origin.
func TestScopes(t *testing.T) {
	path := filepath.Join(isolate(t), "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", path)
	write(t, path, auths(entry("quay.io", "all"), entry("quay.io/osism", "osism"), entry("quay.io/osism/secret", "secret"),
		entry("ghcr.io/one", "one"), entry("https://reg.example:5000/v2/", "url"), entry("https://index.docker.io/v1/", "hub")))
	k := containers.New(cloud.New())
	for repository, want := range map[string][2]string{
		"quay.io/other/x":             {"all", "quay.io"},
		"quay.io/osism/x":             {"osism", "quay.io/osism"},
		"quay.io/osism/secret":        {"secret", "quay.io/osism/secret"},
		"quay.io/osism/secret/deep":   {"secret", "quay.io/osism/secret"},
		"quay.io/osismatic/x":         {"all", "quay.io"},
		"ghcr.io/one/x":               {"one", "ghcr.io/one"},
		"ghcr.io/two/x":               {},
		"reg.example:5000/a":          {"url", "https://reg.example:5000/v2/"},
		"docker.io/library/nginx":     {"hub", "https://index.docker.io/v1/"},
		"docker.io/nginx":             {"hub", "https://index.docker.io/v1/"},
		"docker.io":                   {"hub", "https://index.docker.io/v1/"},
		"index.docker.io/osism/nginx": {"hub", "https://index.docker.io/v1/"},
		"registry-1.docker.io/a/b":    {"hub", "https://index.docker.io/v1/"},
	} {
		require.Equal(t, want[0], user(t, k, repository), repository)
		if found, _ := k.Find(t.Context(), repository); want[0] != "" {
			require.Equal(t, fmt.Sprintf("entry %q in %s", want[1], path), found.Origin)
		}
	}
	write(t, path, auths(entry("docker.io/osism", "osism-on-hub"), entry("docker.io", "hub2")))
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	k.SetClock(func() time.Time { return time.Now().Add(time.Minute) })
	require.Equal(t, "osism-on-hub", user(t, k, "docker.io/osism/x"), "the file is read again")
	require.Equal(t, "hub2", user(t, k, "docker.io/library/nginx"))
}

// TestChangedFiles: changes take effect within a second, or at once after Forget, however the file is
// replaced.
func TestChangedFiles(t *testing.T) {
	dir := isolate(t)
	for name, replace := range map[string]func(path, content string){
		"in place": func(path, content string) { write(t, path, content) },
		"moved": func(path, content string) {
			write(t, path+".new", content)
			require.NoError(t, os.Rename(path+".new", path))
		},
		"a symlink, as Kubernetes does": func(path, content string) {
			version, err := os.MkdirTemp(dir, "version")
			require.NoError(t, err)
			write(t, filepath.Join(version, "auth.json"), content)
			require.NoError(t, os.Symlink(version, path+".data"))
			require.NoError(t, os.Rename(path+".data", filepath.Join(dir, "data")))
			_ = os.Remove(path) // which is missing at first
			require.NoError(t, os.Symlink(filepath.Join(dir, "data", "auth.json"), path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "auth.json")
			t.Setenv("REGISTRY_AUTH_FILE", path)
			replace(path, auths(entry("quay.io", "before")))
			k, now := containers.New(cloud.New()), time.Now()
			k.SetClock(func() time.Time { return now })
			require.Equal(t, "before", user(t, k, "quay.io/a"))
			replace(path, auths(entry("quay.io", "and after")))
			require.Equal(t, "before", user(t, k, "quay.io/a"))
			now = now.Add(time.Second)
			require.Equal(t, "and after", user(t, k, "quay.io/a"))
			replace(path, auths(entry("quay.io", "and afterwards")))
			k.Forget("quay.io/a")
			require.Equal(t, "and afterwards", user(t, k, "quay.io/a"))
		})
	}
}

// TestNewFile: a file that did not exist is read within a second.
func TestNewFile(t *testing.T) {
	dir := isolate(t)
	k, now := containers.New(cloud.New()), time.Now()
	k.SetClock(func() time.Time { return now })
	for _, at := range []struct{ path, user string }{ // in reverse order
		{".docker/config.json", "docker"},
		{".config/containers/auth.json", "config"},
		{"run/containers/auth.json", "runtime"},
	} {
		before := user(t, k, "quay.io/a")
		write(t, filepath.Join(dir, at.path), auths(entry("quay.io", at.user)))
		require.Equal(t, before, user(t, k, "quay.io/a"))
		now = now.Add(time.Second)
		require.Equal(t, at.user, user(t, k, "quay.io/a"))
	}
}

func TestHelpers(t *testing.T) {
	dir := isolate(t)
	path := filepath.Join(dir, "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", path)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	calls := helper(t, dir, "one", answers("one"))
	helper(t, dir, "none", `echo "credentials not found in native keychain"; exit 1`)
	helper(t, dir, "break", `echo "token `+password+` refused"; echo "`+password+`" >&2; exit 1`)
	helper(t, dir, "identity", `printf '{"Username":"<token>","Secret":"opaque"}'`)
	write(t, path, `{"auths":{"quay.io":{}},"credHelpers":
		{"docker.io":"one","none.example":"none","break.example":"break","gone.example":"gone","identity.example":"identity"}}`)
	now := time.Now()
	k := containers.New(cloud.New())
	k.SetClock(func() time.Time { return now })
	for range 3 {
		require.Equal(t, "one of docker.io", user(t, k, "docker.io/library/nginx"))
		require.Equal(t, "one of docker.io", user(t, k, "docker.io/osism/tool"))
	}
	require.Equal(t, 1, calls(), "one answer does for a registry")
	found, err := k.Find(t.Context(), "docker.io/library/nginx")
	require.NoError(t, err)
	require.Equal(t, "docker-credential-one (of "+path+")", found.Origin)
	require.Empty(t, user(t, k, "none.example/a"))
	require.Empty(t, user(t, k, "quay.io/a"))
	found, err = k.Find(t.Context(), "identity.example/a")
	require.NoError(t, err)
	require.Equal(t, "opaque", found.IdentityToken)

	for repository, want := range map[string]string{
		"break.example/a": path + ": credential helper docker-credential-break for break.example failed",
		"gone.example/a":  path + ": credential helper docker-credential-gone for gone.example: not found in PATH",
	} {
		_, err = k.Find(t.Context(), repository)
		require.ErrorIs(t, err, containers.ErrHelper)
		require.EqualError(t, err, want)
	}

	helper(t, dir, "one", answers("another"))
	require.Equal(t, "one of docker.io", user(t, k, "docker.io/library/nginx"))
	k.Forget("docker.io/library/nginx")
	require.Equal(t, "another of docker.io", user(t, k, "docker.io/library/nginx"))
	helper(t, dir, "one", answers("a third"))
	now = now.Add(10 * time.Second)
	require.Equal(t, "a third of docker.io", user(t, k, "docker.io/library/nginx"))
}

// TestConcurrentFind: a helper runs once for concurrent callers.
func TestConcurrentFind(t *testing.T) {
	dir := isolate(t)
	path := filepath.Join(dir, "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", path)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	calls := helper(t, dir, "slow", `sleep 0.2; `+answers("slow"))
	write(t, path, `{"credHelpers":{"quay.io":"slow"}}`)
	now := time.Now()
	k := containers.New(cloud.New())
	k.SetClock(func() time.Time { return now })
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			found, err := k.Find(t.Context(), fmt.Sprintf("quay.io/osism/%d", i%4))
			if err != nil || found.Username != "slow of quay.io" {
				t.Errorf("%v, %v", found.Username, err)
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, calls())
}

func TestBrokenFiles(t *testing.T) {
	path := filepath.Join(isolate(t), "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", path)
	for content, want := range map[string]string{
		`{"auths":{"quay.io":{"auth":hunter2}}}`: "credentials file " + path + ": not valid JSON at byte 29",
		``:                                       "credentials file " + path + ": not valid JSON at byte 0",
		`{"auths":["hunter2"]}`:                  "credentials file " + path + ": not in the format of containers-auth.json(5)",
		`{"auths":{"quay.io":{"auth":"hunter2 no base64"}}}`: path + `: credentials file: entry "quay.io" is not in the format of containers-auth.json(5)`,
	} {
		write(t, path, content)
		_, err := containers.New(cloud.New()).Find(t.Context(), "quay.io/a/b")
		require.ErrorIs(t, err, containers.ErrFile)
		require.EqualError(t, err, want)
	}
	require.NoError(t, os.Remove(path))
	_, err := containers.New(cloud.New()).Find(t.Context(), "quay.io/a/b")
	require.ErrorIs(t, err, containers.ErrFile)
	require.ErrorContains(t, err, path)
}

// TestReadable: an unreadable file is reported without a request and without starting a helper.
func TestReadable(t *testing.T) {
	dir := isolate(t)
	first, second := filepath.Join(dir, ".config/containers/auth.json"), filepath.Join(dir, ".docker/config.json")
	calls := helper(t, dir, "test", answers("bob"))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	k := containers.New(cloud.New())
	require.NoError(t, k.Readable("quay.io", "docker.io"))
	write(t, first, auths(entry("quay.io", "alice"))[:len(auths(entry("quay.io", "alice")))-1]+`,"credHelpers":{"ghcr.io":"test"}}`)
	write(t, second, "{")
	require.NoError(t, k.Readable("quay.io", "ghcr.io"), "no other file is needed for them")
	require.ErrorIs(t, k.Readable("quay.io", "docker.io"), containers.ErrFile)
	write(t, second, `{"auths":{"docker.io":{"auth":"%"}}}`)
	require.ErrorContains(t, k.Readable("docker.io"), `entry "docker.io" is not in the format of containers-auth.json(5)`)
	require.Zero(t, calls())

	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "none.json"))
	require.ErrorIs(t, containers.New(cloud.New()).Readable(), containers.ErrFile)
}

func TestBrokenRegistriesConf(t *testing.T) {
	dir := isolate(t)
	write(t, filepath.Join(dir, ".config/containers/registries.conf"), "this is no TOML")
	_, err := containers.New(cloud.New()).Find(t.Context(), "quay.io/a/b")
	require.ErrorIs(t, err, containers.ErrConf)
	require.ErrorContains(t, err, filepath.Join(dir, ".config/containers/registries.conf"))
}

// TestSameAsSkopeo: the keychain and skopeo find the same credentials.
func TestSameAsSkopeo(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBasicAuth("bob", password))
	_, err := r.PushManifest("osism/tool", "1", types.OCIImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))
	require.NoError(t, err)
	answers := `printf '{"Username":"bob","Secret":"` + password + `"}'`
	const conf = ".config/containers/registries.conf"
	for name, files := range map[string]map[string]string{
		"docker's":  {".docker/config.json": auths(entry("http://"+r.Host()+"/v1/", "bob"))},
		"a path":    {".config/containers/auth.json": auths(entry(r.Host()+"/osism", "bob"), entry(r.Host(), "eve"))},
		"a session": {"run/containers/auth.json": auths(entry(r.Host()+"/osism/tool", "bob"), entry(r.Host()+"/osism", "eve"))},
		"a helper":  {"run/containers/auth.json": `{"credHelpers":{"` + r.Host() + `":"test"}}`, "docker-credential-test": answers},
		"a helper before an entry": {"run/containers/auth.json": `{"auths":{` + entry(r.Host()+"/osism/tool", "eve") + `},"credHelpers":{"` + r.Host() + `":"test"}}`,
			"docker-credential-test": answers},
		"registries.conf": {conf: `credential-helpers = ["test"]`, "docker-credential-test": answers},
		"registries.conf, the files first": {conf: `credential-helpers = ["containers-auth.json", "test"]`, "docker-credential-test": answers,
			"run/containers/auth.json": auths(entry("other.example", "eve"))},
		"registries.conf, a helper that breaks": {conf: `credential-helpers = ["break", "test"]`, "docker-credential-test": answers, "docker-credential-break": "exit 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := isolate(t)
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			for file, content := range files {
				if script, ok := strings.CutPrefix(file, "docker-credential-"); ok {
					helper(t, dir, script, content)
					continue
				}
				write(t, filepath.Join(dir, file), content)
			}
			require.Equal(t, "bob", user(t, containers.New(cloud.New()), r.Host()+"/osism/tool"))
			out, err := exec.CommandContext(t.Context(), "skopeo", "inspect", "--raw", "--tls-verify=false",
				"docker://"+r.Host()+"/osism/tool:1").CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}
