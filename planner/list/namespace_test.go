package list_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

func repository(host string, paths ...string) (all []reference.Repository) {
	for _, path := range paths {
		all = append(all, reference.MustRepository(host+"/"+path))
	}
	return all
}

// TestExpand: the repositories of a namespace take its position in the list. Repositories with
// entries of their own keep them, and no two repositories get the same destination.
func TestExpand(t *testing.T) {
	l, err := list.Parse([]byte(`containers:
- quay.io/a/first
- image: quay.io/osism/*
  repositories: {include: [kolla, tool], exclude: .*-test}
  min_repositories: 2
  tags: {limit: 3}
- image: quay.io/osism/tool
  tags: {limit: 1}
- image: ghcr.io/team/*
  destination: third/party
- quay.io/osism/*
`), "s", dest, selection.Selection{})
	require.NoError(t, err)
	require.Len(t, l.Namespaces, 3)
	require.Equal(t, 2, l.Namespaces[0].Min)
	expanded := l.Expand(func(i int) []reference.Repository {
		if l.Namespaces[i].Registry() == "quay.io" {
			return repository("quay.io", "osism/kolla-b", "osism/kolla-test", "osism/other", "osism/tool")
		}
		return repository("ghcr.io", "team/x", "team/y/z")
	})
	var got [][3]any
	for _, e := range expanded.Entries {
		got = append(got, [3]any{e.String(), e.Destination.Path(), e.Selection.Limit})
	}
	require.Equal(t, [][3]any{
		{"quay.io/a/first", "mirror/a/first", 0}, {"quay.io/osism/kolla-b", "mirror/osism/kolla-b", 3}, {"quay.io/osism/tool", "mirror/osism/tool", 1},
		{"ghcr.io/team/x", "mirror/third/party/x", 0}, {"ghcr.io/team/y/z", "mirror/third/party/y/z", 0},
		{"quay.io/osism/kolla-test", "mirror/osism/kolla-test", 0}, {"quay.io/osism/other", "mirror/osism/other", 0},
	}, got)
	require.Empty(t, expanded.Warnings)

	crowded := l.Expand(func(i int) []reference.Repository {
		if l.Namespaces[i].Registry() == "quay.io" {
			return nil
		}
		return repository("ghcr.io", "team/x", "a/first")
	})
	require.Len(t, crowded.Entries, 3, "what is not of the namespace is left out")

	has := l.Has()
	for image, want := range map[string]bool{
		"quay.io/osism/kolla-b:1": true, "quay.io/osism/new": true, "quay.io/osism/new:1": true, "ghcr.io/team/x:1": true,
		"quay.io/osismother/a": false, "ghcr.io/other/x": false, "quay.io/a/second": false,
	} {
		ref, err := reference.ParseCanonical(image)
		require.NoError(t, err)
		require.Equal(t, want, has(ref), image)
	}
}

// TestCrowdedDestination: a new repository upstream does not take the destination of another one.
func TestCrowdedDestination(t *testing.T) {
	l, err := list.Parse([]byte("containers: [quay.io/team/app, ghcr.io/team/*, 'docker.io/team/*']"), "s", dest, selection.Selection{})
	require.NoError(t, err)
	expanded := l.Expand(func(i int) []reference.Repository {
		return repository(l.Namespaces[i].Registry(), "team/app", "team/b")
	})
	require.Len(t, expanded.Entries, 2)
	require.Equal(t, []string{
		"ghcr.io/team/app of ghcr.io/team/* in line 1 is not mirrored: quay.io/team/app is mirrored to 127.0.0.1:5000/mirror/team/app",
		"docker.io/team/app of docker.io/team/* in line 1 is not mirrored: quay.io/team/app is mirrored to 127.0.0.1:5000/mirror/team/app",
		"docker.io/team/b of docker.io/team/* in line 1 is not mirrored: ghcr.io/team/b is mirrored to 127.0.0.1:5000/mirror/team/b",
	}, expanded.Warnings)
}

// TestItself: nothing is mirrored to itself, and repositories that a mirror has put into a
// namespace are not mirrored again.
func TestItself(t *testing.T) {
	const host = "127.0.0.1:5000" // of dest, with the prefix mirror
	_, err := list.Parse([]byte("containers:\n- "+host+"/mirror/a:1\n- image: "+host+"/mirror/b\n  destination: b\n- image: "+host+"/mirror/team/*\n  destination: team\n"), "s", dest, selection.Selection{})
	require.ErrorContains(t, err, "s:3: "+host+"/mirror/b would be mirrored to itself; set MIRROR_DEST_URL, or destination, to another place")
	require.ErrorContains(t, err, "s:5: "+host+"/mirror/team/* would be mirrored to itself")
	require.NotContains(t, err.Error(), "s:2: ")
	at := dest
	at.Prefix = ""
	for _, image := range []string{"/a:1", "/*", "/team/*"} {
		_, err = list.Parse([]byte("containers: ["+host+image+"]"), "s", at, selection.Selection{})
		require.ErrorContains(t, err, "would be mirrored to itself", image)
	}

	l, err := list.Parse([]byte("containers:\n- "+host+"/*\n"), "s", dest, selection.Selection{})
	require.NoError(t, err)
	expanded := l.Expand(func(int) []reference.Repository {
		return repository(host, "a", "mirror", "mirror/a", "mirror/mirror/a", "mirrored/a")
	})
	var got []string
	for _, e := range expanded.Entries {
		got = append(got, e.Repository.Path()+" "+e.Destination.Path())
	}
	require.Equal(t, []string{"a mirror/a", "mirror mirror/mirror", "mirrored/a mirror/mirrored/a"}, got)
}

func TestBadNamespaces(t *testing.T) {
	_, err := list.Parse([]byte(`containers:
- quay.io/*/osism
- docker.io/*
- image: quay.io/osism/*
  min_repositories: 0
  repositories: {include: (, limit: 3}
- image: quay.io/osism/osism
  repositories: {include: a}
  min_repositories: 3
- image: ghcr.io/team/*
  destination: /b
`), "s", dest, selection.Selection{})
	require.EqualError(t, err, `s:2: invalid namespace "quay.io/*/osism": the asterisk stands for all repositories of a namespace, so it is the whole last part of a name, as in quay.io/example/*
s:3: invalid namespace "docker.io/*": Docker Hub does not list all of its repositories; write docker.io/NAMESPACE/*
s:5: min_repositories: expected 1 or more
s:6: unknown key "repositories.limit", expected one of include, exclude
s:6: repositories.include[0]: "(" is not a regular expression: missing closing ): (
s:8: repositories: quay.io/osism/osism is one repository; write a namespace, as quay.io/example/*, or remove repositories
s:9: min_repositories: quay.io/osism/osism is one repository; write a namespace, as quay.io/example/*, or remove min_repositories
s:11: destination: "/b" is invalid, expected a repository's path, without host, tag and digest: a slash with nothing before or after it`)
}
