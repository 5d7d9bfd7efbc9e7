package list

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

func TestHas(t *testing.T) {
	const (
		digest    = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		other     = "sha256:1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		signature = "sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.sig"
	)
	destination, err := reference.ParseDestination("registry.example/hub")
	require.NoError(t, err)
	l, err := Parse([]byte(`
containers:
  - quay.io/a/whole
  - quay.io/a/one:1.0
  - quay.io/a/pinned@`+digest+`
  - quay.io/a/both:2.0@`+digest+`
  - nginx:1.25
  - {image: quay.io/a/some, tags: {include: ["1[.]2"], exclude: [".*-rc"]}, destination: some/one}
  - {image: quay.io/a/some, tags: {semver: ">=3"}, destination: some/two}
  - {image: quay.io/a/newest, tags: {limit: 2}}
  - {image: quay.io/a/exactly, tags: {list: [a, b]}}
`), "list", destination, selection.Selection{Include: []string{"[0-9]"}})
	require.NoError(t, err)
	has := l.Has()
	for image, want := range map[string]bool{
		"quay.io/a/whole":                  true,
		"quay.io/a/whole:1.0":              true,
		"quay.io/a/whole:latest":           false, // the default selection, as FILTER sets it
		"quay.io/a/whole:" + signature:     true,
		"quay.io/a/whole@" + digest:        false,
		"quay.io/a/whole:1.0@" + digest:    false,
		"quay.io/a/one":                    false,
		"quay.io/a/one:1.0":                true,
		"quay.io/a/one:1.1":                false,
		"quay.io/a/one:" + signature:       true,
		"quay.io/a/pinned@" + digest:       true,
		"quay.io/a/pinned@" + other:        false,
		"quay.io/a/pinned":                 false,
		"quay.io/a/pinned:1@" + digest:     false,
		"quay.io/a/both:2.0@" + digest:     true,
		"quay.io/a/both:2.0@" + other:      false,
		"quay.io/a/both:2.0":               false,
		"docker.io/library/nginx:1.25":     true,
		"docker.io/library/nginx:1.26":     false,
		"quay.io/a/some":                   true,
		"quay.io/a/some:1.2":               true,
		"quay.io/a/some:1.2-rc1":           false,
		"quay.io/a/some:3.1.0":             true,
		"quay.io/a/some:2.0.0":             false,
		"quay.io/a/newest:7":               true,
		"quay.io/a/exactly:a":              true,
		"quay.io/a/exactly:c":              false,
		"quay.io/a/gone":                   false,
		"quay.io/a/gone:1.0":               false,
		"quay.io/a/gone:" + signature:      false,
		"docker.io/a/whole:1.0":            false,
		"registry.example/hub/a/whole:1.0": false,
	} {
		ref, err := reference.ParseCanonical(image)
		require.NoError(t, err)
		require.Equal(t, want, has(ref), image)
	}
}

// TestLacks: the reason is right for each tag that the list does not mirror.
func TestLacks(t *testing.T) {
	destination, err := reference.ParseDestination("registry.example/hub")
	require.NoError(t, err)
	l, err := Parse([]byte(`
containers:
  - quay.io/a/whole
  - quay.io/a/one:1.0
  - {image: quay.io/a/some, tags: {exclude: [".*-rc"]}}
  - {image: quay.io/team/*, destination: ours, repositories: {exclude: [".*-test"]}}
`), "list", destination, selection.Selection{Include: []string{"[0-9]"}})
	require.NoError(t, err)
	l = l.Expand(func(int) []reference.Repository {
		return []reference.Repository{reference.MustRepository("quay.io/team/tool")}
	})
	lacks := l.Lacks()
	for image, want := range map[string]holding.Reason{
		"a/whole:1":        "",
		"a/whole:latest":   holding.Unmatched,
		"a/one:1.0":        "",
		"a/one:1.1":        holding.Unnamed,
		"a/some:1-rc":      holding.Unmatched,
		"a/gone:1":         holding.Unnamed,
		"ours/tool:1":      "",
		"ours/tool:latest": holding.Unmatched,
		"ours/gone:1":      holding.Unfound,
		"ours/tool-test:1": holding.Unnamed,
		"team/tool:1":      holding.Unnamed,
		"a/whole:sha256-" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.sig": "",
	} {
		ref, err := reference.ParseCanonical("registry.example/hub/" + image)
		require.NoError(t, err)
		require.Equal(t, want, lacks(ref.Repository, ref.Tag), image)
	}
}
