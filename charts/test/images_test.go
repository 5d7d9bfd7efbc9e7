package charttest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// stages returns the stages of a Dockerfile, each beginning with its FROM.
func stages(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile("../../" + name)
	require.NoError(t, err)
	_, from, found := strings.Cut(string(text), "\nFROM ")
	require.True(t, found)
	return strings.Split(from, "\nFROM ")
}

// TestDockerfiles: both images are from scratch, with the labels of the OCI specification. Their Go
// stages are equal, so that it is built once.
func TestDockerfiles(t *testing.T) {
	planner, worker := stages(t, "Dockerfile.planner"), stages(t, "Dockerfile.worker")
	comment := regexp.MustCompile(`(?m)^#.*\n?`)
	build := func(stage string) string { return strings.TrimSpace(comment.ReplaceAllString(stage, "")) }
	require.Equal(t, build(planner[0]), build(worker[0]))

	labels := []string{"title", "description", "url", "documentation", "source", "licenses", "version", "revision", "created"}
	for name, last := range map[string]string{"planner": planner[len(planner)-1], "worker": worker[len(worker)-1]} {
		require.True(t, strings.HasPrefix(last, "scratch\n"), name)
		require.NotContains(t, last, "\nRUN ", "there is no shell")
		require.Contains(t, last, "\nUSER 65532:65532\n")
		wanted := labels
		if name == "worker" {
			wanted = append(wanted, "base.name", "base.digest")
		}
		for _, label := range wanted {
			require.Regexp(t, `org\.opencontainers\.image\.`+regexp.QuoteMeta(label)+`="[^"]+"`, last, name)
		}
	}
}
