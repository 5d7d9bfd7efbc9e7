package charttest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
)

// The README is generated from values.yaml. A value without a description would show there.
func TestEveryValueIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chartDir, "README.md"))
	require.NoError(t, err)
	rows := 0
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) > 3 {
			rows++
			require.False(t, strings.HasSuffix(strings.TrimSpace(line), "|  |"), line)
		}
	}
	require.Greater(t, rows, 150)
}

// The chart accepts the values in the documentation.
func TestValuesInDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/kubernetes.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		values, err := chartutil.ReadValues(block[1])
		require.NoError(t, err, string(block[1]))
		_, hasList := values["source"]
		base := least
		if hasList {
			base = "destination: registry.example.com\nnats: {install: true}"
		}
		if nats, ok := values["nats"].(map[string]any); ok && nats["url"] != nil {
			base = "destination: registry.example.com\nlist: [nginx]"
		}
		render(t, base, string(block[1]))
	}
}
