package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var (
	// block matches a fenced block of a page, with an optional comment that says why it is not run.
	block = regexp.MustCompile("(?ms)^(?:<!-- not run: ([^\n]*) -->\n)?```(sh|yaml)\n(.*?)^```$")
	// fileName matches the first line of a block that has the content of a file.
	fileName = regexp.MustCompile(`^# ([a-z.]+)\n`)
)

// TestPages runs the commands of pages in order, each page in a folder of its own, with local
// registries under the names of quay.io and Docker Hub. If the first line of a block of YAML is the
// name of a file, the block is written to that file.
func TestPages(t *testing.T) {
	t.Parallel()
	for _, page := range []string{
		"backup", "comparison", "from-regsync", "from-the-python-script", "registries", "sizing", "troubleshooting",
	} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join("..", "..", "docs", page+".md"))
			require.NoError(t, err)
			script(t, string(text))
		})
	}
}

// script returns the blocks of a page as one script for bash.
func script(t *testing.T, page string) {
	t.Helper()
	o := newOnline(t, nil, nil)
	for image, source := range map[string]*registrytest.Registry{
		"osism/osism:1.0.0": o.Quay, "osism/osism:1.1.0": o.Quay, "ceph/ceph:18.2.4": o.Quay, "ceph/ceph:19.2.0": o.Quay,
		"library/nginx:1.26": o.Hub, "library/nginx:1.27": o.Hub, "library/redis:7.4.1": o.Hub,
	} {
		repository, tag, _ := strings.Cut(image, ":")
		_, err := source.PushImage(repository, tag, registrytest.Image{Version: image})
		require.NoError(t, err)
	}
	options := []registrytest.Option{registrytest.WithTLS()}
	if strings.Contains(page, "skopeo login") {
		options = append(options, registrytest.WithBasicAuth("robot$mirror", "PASSWORD"))
	}
	destination := registrytest.New(t, options...)
	authorities, err := os.ReadFile(o.CAFile)
	require.NoError(t, err)
	dir := t.TempDir()
	trusted := filepath.Join(dir, "ca.crt")
	require.NoError(t, os.WriteFile(trusted, append(authorities, destination.CA()...), 0o600))
	hosts := strings.NewReplacer("registry.example.com", destination.Host())
	commands := "set -euo pipefail\n"
	for _, found := range block.FindAllStringSubmatch(page, -1) {
		why, language, text := found[1], found[2], hosts.Replace(found[3])
		switch name := fileName.FindStringSubmatch(text); {
		case why != "":
		case language == "sh":
			commands += text
		case name != nil:
			commands += "cat > " + name[1] + " <<'END'\n" + text + "END\n"
		}
	}
	c := exec.CommandContext(t.Context(), "bash", "-c", commands)
	c.Dir = dir
	c.Env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, raceSettings, "COPY_ENGINE=" + engine(),
		"HTTPS_PROXY=" + o.env["HTTPS_PROXY"], "NO_PROXY=127.0.0.1", "SSL_CERT_FILE=" + trusted,
	}
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s\n\n%s", commands, out)
}

// TestMovedStore: a nats-server can use the folder of an embedded broker, as docs/backup.md says.
func TestMovedStore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.write("osism/tool", "osism/missing:1")
	run := runID(t, s.planner("mirror").exits(1))
	failed := s.failed()
	require.Len(t, failed, 1)
	before := s.status(run).Images

	broker := brokertest.Start(t, func(o *server.Options) { o.StoreDir = s.env["DATA_DIR"] })
	moved := s.with("NATS_URL", broker.URL())
	require.Equal(t, failed, moved.failed())
	require.Equal(t, before, moved.status(run).Images)
}
