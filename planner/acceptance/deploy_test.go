package acceptance

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// setting matches a line of an environment file. Commented ones are examples.
var setting = regexp.MustCompile(`(?m)^#?([A-Z_]+)=(.*)$`)

// TestDeploy: the files in deploy/ set existing variables only, and the process starts with them.
func TestDeploy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.write("osism/tool")
	help := s.planner("serve", "--help").exits(0)
	known := func(name string) bool { return strings.Contains(help, "\n  "+name+" ") }

	file, err := os.ReadFile("../../deploy/skopeo-worker.env")
	require.NoError(t, err)
	hardening := ""
	for name, command := range map[string]string{
		"skopeo-worker": "planner serve", "skopeo-worker-mirror": "planner mirror", "skopeo-worker-worker": "worker",
	} {
		unit, err := os.ReadFile("../../deploy/" + name + ".service")
		require.NoError(t, err)
		require.Contains(t, string(unit), "ExecStart=/usr/bin/"+command+"\n")
		_, rest, found := strings.Cut(string(unit), "DynamicUser=yes\n")
		require.True(t, found)
		rest, _, _ = strings.Cut(rest, "\n[Install]")
		if hardening == "" {
			hardening = strings.TrimSpace(rest)
		}
		require.Equal(t, hardening, strings.TrimSpace(rest), "all services are restricted alike")
	}
	var pairs []string
	for _, found := range setting.FindAllStringSubmatch(string(file), -1) {
		require.True(t, known(found[1]), found[1])
		if !strings.HasPrefix(found[0], "#") && s.env[found[1]] == "" {
			pairs = append(pairs, found[1], found[2])
		}
	}
	require.Contains(t, pairs, "MIRROR_SCHEDULE")
	serve, _ := s.with(pairs...).serve()
	serve.says("planned by schedule")

	text, err := os.ReadFile("../../deploy/compose.yaml")
	require.NoError(t, err)
	var compose struct {
		Services map[string]struct {
			Entrypoint, Command []string
			Environment         map[string]string
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &compose))
	mirror := compose.Services["mirror"]
	require.Equal(t, []string{"planner", "serve"}, append(mirror.Entrypoint, mirror.Command...))
	for name := range mirror.Environment {
		require.True(t, known(name) || name == "REGISTRY_AUTH_FILE", name)
	}
}
