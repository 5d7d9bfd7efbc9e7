package list_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

const (
	hex64  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	sha    = "@sha256:" + hex64
	shaB   = "@sha256:abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789"
	source = "https://user:s3cret@example.com/list.yml?token=s3cret"
	named  = "https://example.com/list.yml?xxxxx"
)

var dest = reference.Destination{Host: "127.0.0.1:5000", Prefix: "mirror"}

func TestParseRealShape(t *testing.T) {
	data, err := os.ReadFile("testdata/osism.yml")
	require.NoError(t, err)
	l, err := list.Parse(data, source, dest, selection.Selection{})
	require.NoError(t, err)
	require.Empty(t, l.Warnings)
	require.Len(t, l.Entries, 22)
	require.Equal(t, list.Entry{
		Reference:   reference.Reference{Repository: reference.MustRepository("quay.io/osism/ansible")},
		Line:        10,
		Text:        "quay.io/osism/ansible",
		Destination: reference.MustRepository("127.0.0.1:5000/mirror/osism/ansible"),
	}, l.Entries[0])
	byText := map[string]list.Entry{}
	for _, e := range l.Entries {
		byText[e.Text] = e
	}
	require.Equal(t, "docker.io/library/redis:7.2", byText["redis:7.2"].String())
	require.Equal(t, "127.0.0.1:5000/mirror/library/redis", byText["redis:7.2"].Destination.String())
	require.Equal(t, "docker.io/grafana/grafana", byText["registry-1.docker.io/grafana/grafana"].String())
	require.Equal(t, "sha256-0123456789ab", byText["docker.io/library/traefik"+sha].DestinationTag().String())
}

func TestParseAccepts(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"byte order mark":    {"\xef\xbb\xbfcontainers:\n- nginx\n", []string{"docker.io/library/nginx"}},
		"carriage returns":   {"containers:\r\n- nginx\r\n", []string{"docker.io/library/nginx"}},
		"flow and quotes":    {`{"containers": ["nginx:1.25", 'quay.io/a/b']}`, []string{"docker.io/library/nginx:1.25", "quay.io/a/b"}},
		"quoted yes":         {"containers: [\"yes\"]", []string{"docker.io/library/yes"}},
		"alias for the list": {"x: &x [nginx]\ncontainers: *x\n", []string{"docker.io/library/nginx"}},
		"alias for an entry": {"x: &x nginx\ncontainers: [*x]\n", []string{"docker.io/library/nginx"}},
		"document end":       {"---\ncontainers: [nginx]\n...\n", []string{"docker.io/library/nginx"}},
		"merge key at start": {"<<: {a: b}\ncontainers: [nginx]\n", []string{"docker.io/library/nginx"}},
		"all tags and one":   {"containers: [nginx, 'nginx:1']", []string{"docker.io/library/nginx", "docker.io/library/nginx:1"}},
		"two pinned tags":    {"containers: ['nginx:1" + sha + "', 'nginx:2" + shaB + "', 'nginx" + sha + "']", []string{"docker.io/library/nginx:1" + sha, "docker.io/library/nginx:2" + shaB, "docker.io/library/nginx" + sha}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := list.Parse([]byte(test.text), "-", dest, selection.Selection{})
			require.NoError(t, err)
			var got []string
			for _, e := range l.Entries {
				got = append(got, e.String())
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestParseWarnsOfDuplicates(t *testing.T) {
	l, err := list.Parse([]byte("containers:\n- nginx\n- quay.io/a/b\n- docker.io/library/nginx\n- index.docker.io/nginx\n"), source, dest, selection.Selection{})
	require.NoError(t, err)
	require.Len(t, l.Entries, 2)
	require.Equal(t, []string{
		named + ":4: docker.io/library/nginx is already in line 2; it is mirrored once",
		named + ":5: docker.io/library/nginx is already in line 2; it is mirrored once",
	}, l.Warnings)
}

// TestKeepOfARepository: tags that one entry of a repository keeps are kept by its other entries,
// too.
func TestKeepOfARepository(t *testing.T) {
	l, err := list.Parse([]byte("containers:\n- {image: a, keep: lts, tags: {include: v1}}\n- {image: a, keep: [x, lts], tags: {include: v2}}\n- 'a:1'\n- {image: a, tags: {include: v1}}\n- b"), "s", dest, selection.Selection{})
	require.NoError(t, err)
	require.Len(t, l.Entries, 4)
	require.Len(t, l.Warnings, 1)
	for _, e := range l.Entries[:3] {
		require.Equal(t, []string{"lts", "x"}, e.Selection.Keep)
	}
	require.Empty(t, l.Entries[3].Selection.Keep)
}

func TestParseReportsEverythingAtOnce(t *testing.T) {
	text := strings.Join([]string{
		"containers:",                   // 1
		"- quay.io/library/nginx",       // 2
		"- 1.25",                        // 3
		"- ",                            // 4
		"- true",                        // 5
		"- yes",                         // 6
		"- [nginx]",                     // 7
		"- nginx: 1.25",                 // 8
		"- 2024-01-31",                  // 9
		"- !image nginx",                // 10
		"- nginx:1.25",                  // 11
		"- quay.io:0/a/b",               // 12
		"- quay.io/a/b:-x",              // 13
		"- Quay.io/A/b",                 // 14
		"- user:s3cret@quay.io/a/b",     // 15
		"- quay.io/x/y",                 // 16
		"- quay.io/x/y:1" + sha,         // 17
		"- quay.io/p/q:1" + sha,         // 18
		"- quay.io/p/q:1" + shaB,        // 19
		"- quay.io/p/q:1",               // 20
		"- " + strings.Repeat("a", 235), // 21
		"pypi: {}",                      // 22
		"pypi: {}",                      // 23
	}, "\n")
	_, err := list.Parse([]byte(text), source, dest, selection.Selection{})
	require.ErrorIs(t, err, list.ErrBadList)
	require.NotContains(t, err.Error(), "s3cret")
	expected := "expected a string host/path[:tag][@digest] or a mapping with the key \"image\", found "
	want := []string{
		"3: " + expected + "the number 1.25",
		"4: " + expected + "nothing",
		"5: " + expected + "the boolean true",
		"6: " + expected + "the boolean yes",
		"7: " + expected + "a list",
		`8: expected a string or the key "image", found the key "nginx"; write nginx:1.25`,
		"9: " + expected + "the date 2024-01-31",
		"10: " + expected + "a value tagged !image",
		"11: docker.io/library/nginx and quay.io/library/nginx in line 2 would both be mirrored to 127.0.0.1:5000/mirror/library/nginx",
		`12: invalid reference "quay.io:0/a/b": port "0" is invalid, expected a number from 1 to 65535`,
		`13: invalid reference "quay.io/a/b:-x": tag "-x" is invalid`,
		`14: invalid reference "Quay.io/A/b": repository names are lower case`,
		`15: invalid reference "xxxxx@quay.io/a/b": only a digest may follow an @`,
		"17: quay.io/x/y:1" + sha + " names a tag that quay.io/x/y in line 16 mirrors, too; they would overwrite each other",
		"19: quay.io/p/q:1" + shaB + " and quay.io/p/q:1" + sha + " in line 18 would overwrite each other as 127.0.0.1:5000/mirror/p/q:1",
		"20: quay.io/p/q:1 and quay.io/p/q:1" + sha + " in line 18 would overwrite each other",
		"21: docker.io/library/" + strings.Repeat("a", 235) + " cannot be named at the destination",
		`23: duplicate key "pypi", first in line 22`,
	}
	got := strings.Split(err.Error(), "\n")
	require.Len(t, got, len(want), err)
	for i, line := range got {
		require.True(t, strings.HasPrefix(line, named+":"+want[i]), "%s\nexpected %s", line, want[i])
	}
}

func TestParseRefuses(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"empty":               {"", "s: the list is empty"},
		"comments only":       {"# nothing\n", "s: the list is empty"},
		"empty document":      {"---\n", "s: the list is empty"},
		"no key":              {"pypi: []\n", `s: the key "containers" is missing`},
		"near miss":           {"a: 1\nimages: []\n", `s: the key "containers" is missing; is "images" in line 2 meant?`},
		"near miss by case":   {"Containers: []\n", `is "Containers" in line 1 meant?`},
		"a list":              {"- nginx\n", `s:1: expected a mapping with the key "containers", found a list`},
		"a string":            {"Not Found", `s:1: expected a mapping with the key "containers", found a string`},
		"no entries":          {"a: 1\ncontainers: []\n", `s:2: the list under "containers" is empty`},
		"null":                {"containers:\n", `s:1: the list under "containers" is empty`},
		"mapping":             {"containers:\n  nginx: 1\n", `s:2: expected a list under "containers", found a mapping`},
		"string":              {"containers: nginx\n", `s:1: expected a list under "containers", found a string`},
		"key twice":           {"containers: [a]\nb: 1\ncontainers: [c]\n", `s:3: duplicate key "containers", first in line 1`},
		"second document":     {"containers: [a]\n---\nb: 1\n", "s:2: a second YAML document starts here, expected one"},
		"scanner's line":      {"containers:\n- a\n- @b\n", "s:3: broken YAML: found character that cannot start any token"},
		"parser's line":       {"containers:\n- a\n- [b\n- c\n", "s:3: broken YAML: did not find expected ',' or ']'"},
		"indentation":         {"a: b\ncontainers:\n- a\n - b\n c: d\n", "broken YAML"},
		"unknown alias":       {"containers: [*a]\n", "s: broken YAML: unknown anchor 'a' referenced"},
		"HTML":                {"\n<!DOCTYPE html>\n<html>", "s: this is an HTML page, not YAML; is this the address of the raw file?"},
		"latin-1":             {"a: 1\n# caf\xe9\ncontainers: [a]\n", "s:2: byte 0xe9 is not UTF-8"},
		"UTF-16":              {utf16Text("\ufeffcontainers: [a]\n"), "s: the list is in UTF-16, expected UTF-8"},
		"UTF-16 without mark": {utf16Text("containers: [a]\n"), "s: the list is in UTF-16, expected UTF-8"},
		"NUL":                 {"containers:\n- a\x00\n", "s:2: control character 0x00; this is not a text file"},
		"C1":                  {"a: 1\n# a \u0096 b\ncontainers: [a]\n", "s:2: control character 0x96; was the list converted from another encoding?"},
		"no character":        {"a: 1\n\ncontainers: [a\uffff]\n", "s:3: control character 0xffff"},
		"too large":           {"# " + strings.Repeat("x", list.MaxBytes), "s: the list is larger than 16 MiB"},
		"bomb":                {bomb() + "containers: [a]\n", "the list expands to more than 1000000 YAML nodes"},
		"bomb as entries":     {bomb() + "containers: *l8\n", "the list expands to more than 1000000 YAML nodes"},
		"alias of itself":     {"containers: &a [*a]\n", "s:1: alias *a refers to a node that contains it"},
		"alias around itself": {"x: &a {k: [&b {c: *a}, *b]}\ncontainers: [n]\n", "alias *a refers to a node that contains it"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := list.Parse([]byte(test.text), "s", dest, selection.Selection{})
			require.ErrorIs(t, err, list.ErrBadList)
			require.ErrorContains(t, err, test.want)
		})
	}
}

// bomb returns a "billion laughs" document: nine levels of nine aliases each.
func bomb() string {
	var b strings.Builder
	b.WriteString("l0: &l0 [a, a, a, a, a, a, a, a, a]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "l%d: &l%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 9), ", "))
	}
	return b.String()
}

// utf16Text returns little-endian UTF-16, as Windows programs write it.
func utf16Text(s string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		b = append(b, byte(unit), byte(unit>>8))
	}
	return string(b)
}

func FuzzParse(f *testing.F) {
	real, err := os.ReadFile("testdata/osism.yml")
	require.NoError(f, err)
	f.Add(real)
	for _, seed := range []string{
		"", "containers:\n- nginx\n", "containers: [a, 1, ~, {b: c}, [d]]", "x: &x [a]\ncontainers: *x", "containers: &a [*a]",
		"containers: ['[::1]:5000/x:1" + sha + "']", "<<: {containers: [a]}", "a: b\n---\nc: d", "\xff\xfea\x00", "%YAML 1.1\n---\n!!map {containers: []}",
		bomb() + "containers: *l8",
		"x: &x {image: a, platforms: [linux/x86_64]}\ncontainers: [{<<: *x, tags: {include: a, semver: '>=1', limit: 3}}, {image: b, tags: {list: [c]}, destination: d}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := list.Parse(data, "s", dest, selection.Selection{})
		if err != nil {
			require.ErrorIs(t, err, list.ErrBadList)
			require.NotEmpty(t, err.Error())
			return
		}
		require.NotEmpty(t, l.Entries)
		seen := map[string]bool{}
		for _, e := range l.Entries {
			again, err := reference.Parse(e.String())
			require.NoError(t, err)
			require.Equal(t, e.Reference, again)
			target, err := reference.ParseRepository(e.Destination.String())
			require.NoError(t, err)
			require.Equal(t, e.Destination, target)
			require.NoError(t, e.Selection.Validate())
			id := e.String() + " " + e.Destination.String() + " " + e.Selection.Hash()
			require.False(t, seen[id], "%s is there twice", e)
			seen[id] = true
		}
	})
}

// TestMistakeInAnAnchor: a mistake in an anchor is reported once, however many entries use it.
func TestMistakeInAnAnchor(t *testing.T) {
	_, err := list.Parse([]byte(`x: &x
  platform: [linux/amd64]
containers:
- {<<: *x, image: nginx}
- {<<: *x, image: redis}
- {<<: *x, image: redis}
`), "s", dest, selection.Selection{})
	require.EqualError(t, err, `s:2: unknown key "platform"; is "platforms" meant?`)
}
