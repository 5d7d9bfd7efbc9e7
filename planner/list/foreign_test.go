package list

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// TestForeignLists: the message names the tool of a foreign configuration, and shows an example of
// a list.
func TestForeignLists(t *testing.T) {
	for text, tool := range map[string]string{
		"version: 1\ncreds: []\ndefaults: {parallel: 2}\nsync:\n  - source: alpine\n    target: registry:5000/alpine\n    type: repository\n":              "regsync",
		"registry.example.com:\n  images:\n    busybox: []\n    redis: ['1.0']\n  credentials: {username: a}\nquay.io:\n  images-by-semver: {a: '>= 1'}\n": "skopeo sync",
		"docker.io:\n  images-by-tag-regex:\n    library/nginx: ^1\\.13\n":                                                                                 "skopeo sync",
		`{"quay.io/coreos/kube-rbac-proxy": "quay.io/ruohe/kube-rbac-proxy", "docker.io/library/alpine:3": ["registry:5000/alpine"]}`:                      "image-syncer",
		`{"auth": {"quay.io": {"username": "a"}}, "images": {"quay.io/a/b": "r.example.com/b"}}`:                                                           "image-syncer",
		"relay: skopeo\nskopeo: {binary: skopeo}\ntasks:\n  - name: t\n    mappings: [{from: a, to: b}]\n":                                                 "dregsy",
		"tasks:\n  - name: t\n    mappings: [{from: a}]\n":                                                                                                 "dregsy",
		"kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror: {additionalImages: [{name: a}]}\n":                                 "oc-mirror",
		"apiVersion: content.hauler.cattle.io/v1\nkind: Images\nspec: {images: [{name: a}]}\n":                                                             "Hauler",
		"services:\n  web: {image: nginx}\n": "Docker Compose",
	} {
		_, err := Parse([]byte(text), "list.yml", reference.Destination{}, selection.Selection{})
		require.EqualError(t, err, "list.yml: this is a configuration of "+tool+"; "+example)
		require.ErrorIs(t, err, ErrBadList)
	}
	// A document of no known tool is described, with the example.
	for text, problem := range map[string]string{
		"version: 1\n":              `list.yml: the key "containers" is missing; `,
		"images: [a]\n":             `list.yml: the key "containers" is missing; is "images" in line 1 meant?; `,
		"- quay.io/a/b\n":           `list.yml:1: expected a mapping with the key "containers", found a list; `,
		"quay.io/a/b\n":             `list.yml:1: expected a mapping with the key "containers", found a string; `,
		"sync: true\n":              `list.yml: the key "containers" is missing; `,
		"a: &x {b: 1}\nquay.io: *x": `list.yml: the key "containers" is missing; `,
	} {
		_, err := Parse([]byte(text), "list.yml", reference.Destination{}, selection.Selection{})
		require.EqualError(t, err, problem+example)
	}
	dest, err := reference.ParseDestination("registry.example.com/mirror")
	require.NoError(t, err)
	// A list may have other keys.
	_, err = Parse([]byte("sync: []\nservices: {}\ncontainers: [nginx]\n"), "list.yml", dest, selection.Selection{})
	require.NoError(t, err)
	// The example is a valid list.
	_, err = Parse([]byte(example[len("a list looks like this:"):]), "list.yml", dest, selection.Selection{})
	require.NoError(t, err)
}
