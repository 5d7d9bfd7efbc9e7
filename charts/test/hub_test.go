package charttest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
	"sigs.k8s.io/yaml"
)

// TestArtifactHub: the chart has everything that Artifact Hub shows, and the listed images are
// those that the chart runs.
func TestArtifactHub(t *testing.T) {
	c, err := loader.Load(chartDir)
	require.NoError(t, err)
	require.NotEmpty(t, c.Metadata.Maintainers)
	for _, m := range c.Metadata.Maintainers {
		require.NotEmpty(t, m.Name)
		require.NotEmpty(t, m.URL)
	}
	_, icon, _ := strings.Cut(c.Metadata.Icon, "/main/")
	require.FileExists(t, filepath.Join("../..", icon))

	annotation := func(name string, into any) {
		require.NoError(t, yaml.UnmarshalStrict([]byte(c.Metadata.Annotations["artifacthub.io/"+name]), into), name)
	}
	var links []struct{ Name, URL string }
	annotation("links", &links)
	for _, link := range links {
		if _, file, found := strings.Cut(link.URL, "/blob/main/"); found {
			require.FileExists(t, filepath.Join("../..", file))
		}
	}
	var listed []struct {
		Name, Image string
		Platforms   []string
	}
	annotation("images", &listed)
	var images, run []string
	for _, i := range listed {
		images = append(images, i.Image)
	}
	for _, p := range pods(render(t, least)) {
		run = append(run, p.spec.Containers[0].Image)
	}
	slices.Sort(run)
	require.ElementsMatch(t, slices.Compact(run), images)
	for _, name := range []string{"category", "license", "prerelease"} {
		require.NotEmpty(t, c.Metadata.Annotations["artifacthub.io/"+name], name)
	}
}

// TestReleasedChart: the documentation installs and upgrades the chart with the chart's version,
// from the repository to which the release workflow pushes it.
func TestReleasedChart(t *testing.T) {
	c, err := loader.Load(chartDir)
	require.NoError(t, err)
	release, err := os.ReadFile("../../.github/workflows/release.yml")
	require.NoError(t, err)
	require.Contains(t, string(release), `"oci://$PREFIX/charts"`)
	const address = "oci://ghcr.io/osism/skopeo-worker/charts/skopeo-worker"
	for _, page := range []string{"README.md", "docs/kubernetes.md", "charts/skopeo-worker/README.md"} {
		text, err := os.ReadFile(filepath.Join("../..", page))
		require.NoError(t, err)
		for _, command := range []string{"install", "upgrade"} {
			require.Contains(t, string(text), "helm "+command+" skopeo-worker "+address+" --version "+c.Metadata.Version+" -f values.yaml\n", page)
		}
		require.Contains(t, string(text), "UPGRADING.md", page)
	}
}

// TestPackage: files for tests and documentation only are not in the package.
func TestPackage(t *testing.T) {
	c, err := loader.Load(chartDir)
	require.NoError(t, err)
	var names []string
	for _, f := range c.Raw {
		names = append(names, f.Name)
	}
	require.Contains(t, names, "UPGRADING.md")
	require.Contains(t, names, "examples/production.yaml")
	for _, name := range names {
		require.NotRegexp(t, `^ci/|gotmpl$`, name)
	}
}
