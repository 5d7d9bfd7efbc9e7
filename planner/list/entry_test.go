package list_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

var defaults = selection.Selection{Include: []string{"v"}, Limit: 7, Platforms: []string{"linux/s390x"}, WithoutAttestations: true, Referrers: true, Keep: []string{"2"}}

func TestEntryOverridesDefaults(t *testing.T) {
	with := func(change func(*selection.Selection)) selection.Selection {
		s := defaults
		change(&s)
		return s
	}
	for entry, want := range map[string]selection.Selection{
		"nginx":                              defaults,
		"{image: nginx}":                     defaults,
		"'nginx:1'":                          defaults.Contents(),
		"nginx" + sha:                        defaults.Contents(),
		"{image: 'nginx:1'}":                 defaults.Contents(),
		"{image: nginx, tags: {include: a}}": with(func(s *selection.Selection) { s.Include = []string{"a"} }),
		"{image: nginx, tags: {include: [a, b], exclude: c}}": with(func(s *selection.Selection) {
			s.Include, s.Exclude = []string{"a", "b"}, []string{"c"}
		}),
		"{image: nginx, tags: {limit: 0}}":         with(func(s *selection.Selection) { s.Limit = 0 }),
		"{image: nginx, tags: {semver: '>=1 <2'}}": with(func(s *selection.Selection) { s.Semver = ">=1 <2" }),
		"{image: nginx, tags: {list: [b, a]}}": with(func(s *selection.Selection) {
			s.Include, s.Limit, s.List = nil, 0, []string{"b", "a"}
		}),
		"{image: nginx, platforms: [linux/aarch64, linux/x86_64, linux/amd64]}": with(func(s *selection.Selection) {
			s.Platforms = []string{"linux/amd64", "linux/arm64"}
		}),
		"{image: nginx, attestations: true, referrers: false}": with(func(s *selection.Selection) {
			s.WithoutAttestations, s.Referrers = false, false
		}),
		"{image: 'nginx:1', immutable: ['1', v]}": with(func(s *selection.Selection) {
			s.Include, s.Limit, s.Immutable = nil, 0, []string{"1", "v"}
		}),
		"{image: nginx, immutable: '[0-9]'}": with(func(s *selection.Selection) { s.Immutable = []string{"[0-9]"} }),
		"{image: nginx, min_age: 3d, min_tags: 7, tags: {newer_than: 36h}}": with(func(s *selection.Selection) {
			s.MinAge, s.MinTags, s.NewerThan = selection.Age(72*time.Hour), 7, selection.Age(36*time.Hour)
		}),
		"{image: nginx, min_age: false}": with(func(s *selection.Selection) { s.MinAge = 0 }),
		"{image: nginx, backup: '{tag}-{date}'}": with(func(s *selection.Selection) {
			s.Backup = selection.Backup{Template: "{tag}-{date}", Keep: 3}
		}),
		"{image: nginx, backup: false}":    with(func(*selection.Selection) {}),
		"{image: nginx, immutable: false}": with(func(*selection.Selection) {}),
		"{image: nginx, keep: false}":      with(func(s *selection.Selection) { s.Keep = nil }),
		"{image: nginx, keep: [lts, v]}":   with(func(s *selection.Selection) { s.Keep = []string{"lts", "v"} }),
		"{image: 'nginx:1', platforms: [linux/amd64]}": with(func(s *selection.Selection) {
			s.Include, s.Limit, s.Platforms = nil, 0, []string{"linux/amd64"}
		}),
	} {
		l, err := list.Parse([]byte("containers:\n- "+entry), "s", dest, defaults)
		require.NoError(t, err, entry)
		require.Len(t, l.Entries, 1)
		require.Equal(t, want, l.Entries[0].Selection, entry)
	}
}

func TestMapping(t *testing.T) {
	text := `
x-base: &base
  platforms: [linux/amd64]
  tags: {limit: 3}
containers:
  - image: docker.io/nginx
    destination: web/nginx
  - <<: *base
    image: quay.io/a/b
  - <<: [{attestations: false}, *base]
    image: quay.io/a/c
    tags: {limit: 4}
`
	l, err := list.Parse([]byte(text), "s", dest, selection.Selection{})
	require.NoError(t, err)
	amd64 := []string{"linux/amd64"}
	require.Equal(t, []list.Entry{
		{Reference: reference.Reference{Repository: reference.MustRepository("docker.io/library/nginx")}, Line: 6, Text: "docker.io/nginx", Destination: reference.MustRepository("127.0.0.1:5000/mirror/web/nginx")},
		{Reference: reference.Reference{Repository: reference.MustRepository("quay.io/a/b")}, Line: 8, Text: "quay.io/a/b", Destination: reference.MustRepository("127.0.0.1:5000/mirror/a/b"),
			Selection: selection.Selection{Limit: 3, Platforms: amd64}},
		{Reference: reference.Reference{Repository: reference.MustRepository("quay.io/a/c")}, Line: 10, Text: "quay.io/a/c", Destination: reference.MustRepository("127.0.0.1:5000/mirror/a/c"),
			Selection: selection.Selection{Limit: 4, Platforms: amd64, WithoutAttestations: true}},
	}, l.Entries)
}

func TestMappingReportsEverythingAtOnce(t *testing.T) {
	text := `containers:
- image: nginx:1.25
  tags:
    limit: 5
    incldue: 1
    platforms: [a]
  platfroms: [linux/amd64]
  include: v
  whatever: 1
- image: 1.25
  image: nginx
  attestations: yes
  referrers: 1
  platforms:
  - linux/amd64
  - linux/amd46
- image: quay.io/a/b
  destination: b:1
  platforms: []
  tags:
    include:
    - a
    - (?!b)
    exclude: (
    semver: 1.2
    limit: -1
- image: quay.io/a/c
  destination: Web/c
  tags:
    list: [a, 1.25]
- image: quay.io/a/d
  tags:
    semver: newest
    list:
    - a
    - b c
- image: quay.io/a/e
  tags: v
  ? [x]
  : y
- <<: v
  image: quay.io/a/f
`
	want := []string{
		`3: tags: nginx:1.25 already names one image; remove its tag and digest, or tags`,
		`5: unknown key "tags.incldue"; is "include" meant?`,
		`6: unknown key "tags.platforms"; it belongs elsewhere, as "platforms"`,
		`7: unknown key "platfroms"; is "platforms" meant?`,
		`8: unknown key "include"; it belongs elsewhere, as "tags.include"`,
		`9: unknown key "whatever", expected one of image, tags, platforms, attestations, referrers, immutable, keep, backup, min_age, min_tags, destination, repositories, min_repositories`,
		`10: image: expected a string, found the number 1.25; write "1.25" with the quotes`,
		`11: duplicate key "image", first in line 10`,
		`12: attestations: expected true or false, found the boolean yes`,
		`13: referrers: expected true or false, found the number 1`,
		`16: platforms[1]: platform "linux/amd46": unknown architecture "amd46", expected amd64, arm64 or another GOARCH`,
		`18: destination: "b:1" is invalid, expected a repository's path, without host, tag and digest`,
		`19: platforms: the list is empty; leave out the key instead`,
		`23: tags.include[1]: "(?!b)" is not a regular expression: invalid or unsupported Perl syntax: (?! (RE2 has no lookahead or lookbehind; use exclude instead)`,
		`24: tags.exclude[0]: "(" is not a regular expression: missing closing ): (`,
		`25: tags.semver: expected a string, found the number 1.2; write "1.2" with the quotes`,
		`26: tags.limit: expected a whole number, 0 or more, found the number -1`,
		`28: destination: "Web/c" is invalid, expected a repository's path, without host, tag and digest: repository names are lower case`,
		`30: tags.list: expected a list of strings, found the number 1.25 in it; write "1.25" with the quotes`,
		`33: tags.semver: "newest" is not a version constraint such as ">=1.2 <3"`,
		`35: tags.list: cannot be combined with include, exclude, semver, newer_than or limit`,
		`36: tags.list[1]: tag "b c" is invalid`,
		`38: tags: expected a mapping with some of include, exclude, semver, newer_than, limit, list, found a string; write single tags as tags: {list: [a, b]}`,
		`39: expected a key, one of image, tags, platforms, attestations, referrers, immutable, keep, backup, min_age, min_tags, destination, repositories, min_repositories, found a list`,
		`41: expected a mapping to merge, found a string`,
	}
	_, err := list.Parse([]byte(text), "s", dest, selection.Selection{})
	require.ErrorIs(t, err, list.ErrBadList)
	got := strings.Split(err.Error(), "\n")
	for i, line := range want {
		want[i] = "s:" + line
	}
	require.Equal(t, want, got)
}

func TestTwoSelectionsOfOneRepository(t *testing.T) {
	for name, test := range map[string]struct {
		entries []string
		kept    int
		want    string // the problem; or with kept, the warning
	}{
		"two selections":             {[]string{"{image: a, tags: {semver: '1'}}", "{image: a, tags: {limit: 2}}", "a"}, 3, ""},
		"the same said differently":  {[]string{"{image: a, tags: {include: [x, y]}}", "{image: docker.io/a, tags: {include: [y, x]}}"}, 1, "docker.io/library/a is already in line 2; it is mirrored once"},
		"both forms":                 {[]string{"a", "{image: a}"}, 1, "is already in line 2"},
		"two destinations":           {[]string{"a", "{image: a, destination: b}", "{image: 'a:1" + sha + "', destination: c}"}, 3, ""},
		"a listed tag twice":         {[]string{"'a:1'", "{image: a, tags: {list: ['1', '2', '2']}}"}, 2, ""},
		"referrers do not overwrite": {[]string{"a", "{image: a, referrers: true}"}, 2, ""},
		"apart by platform":          {[]string{"{image: a, tags: {include: '1'}}", "{image: a, tags: {include: '2'}, platforms: [linux/amd64]}", "{image: 'a:3', platforms: [linux/arm64]}"}, 3, ""},
		"pinned beside others":       {[]string{"{image: a, tags: {include: '1'}}", "'a:2" + sha + "'"}, 2, ""},

		"destination of another": {[]string{"quay.io/b", "{image: a, destination: b}"}, 0, "3: docker.io/library/a and quay.io/b in line 2 would both be mirrored to 127.0.0.1:5000/mirror/b"},
		"pinned among others":    {[]string{"{image: a, tags: {include: '1'}}", "'a:1.5" + sha + "'"}, 0, "3: docker.io/library/a:1.5" + sha + " names a tag that docker.io/library/a in line 2 mirrors, too; they would overwrite each other: they differ in the digest"},
		"pinned in a list":       {[]string{"{image: a, tags: {list: ['1']}}", "'a:1" + sha + "'"}, 0, "would overwrite each other as 127.0.0.1:5000/mirror/library/a:1: they differ in the digest"},
		"platforms of a tag":     {[]string{"'a:1'", "{image: 'a:1', platforms: [linux/amd64]}"}, 0, "would overwrite each other as 127.0.0.1:5000/mirror/library/a:1: they differ in the platforms"},
		"immutable for one":      {[]string{"a", "{image: 'a:1', immutable: '1'}"}, 0, "they differ in what is immutable"},
		"platforms of some":      {[]string{"{image: a, tags: {limit: 1}, platforms: [linux/amd64]}", "a"}, 0, "2: docker.io/library/a and docker.io/library/a in line 3, which selects every tag, would overwrite each other: they differ in the platforms"},
		"platforms of the same":  {[]string{"{image: a, tags: {limit: 1}, platforms: [linux/amd64]}", "{image: a, tags: {limit: 1}}"}, 0, "3: docker.io/library/a and docker.io/library/a in line 2 choose the same tags: they differ in the platforms"},
		"attestations":           {[]string{"a", "{image: 'a:1', attestations: false}"}, 0, "3: docker.io/library/a:1 names a tag that docker.io/library/a in line 2 mirrors, too; they would overwrite each other: they differ in the attestations"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := list.Parse([]byte("containers:\n- "+strings.Join(test.entries, "\n- ")), "s", dest, selection.Selection{})
			if test.kept == 0 {
				require.ErrorIs(t, err, list.ErrBadList)
				require.ErrorContains(t, err, test.want)
				return
			}
			require.NoError(t, err)
			require.Len(t, l.Entries, test.kept)
			if test.want == "" {
				require.Empty(t, l.Warnings)
				return
			}
			require.Len(t, l.Warnings, 1)
			require.Contains(t, l.Warnings[0], test.want)
		})
	}
}
