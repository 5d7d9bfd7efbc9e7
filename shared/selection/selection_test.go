package selection_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestMatch(t *testing.T) {
	signature := "sha256-" + hex64 + ".sig"
	for name, test := range map[string]struct {
		selection selection.Selection
		yes, no   []string
	}{
		"everything":     {selection.Selection{}, []string{"1", "latest", signature}, nil},
		"platforms only": {selection.Selection{Platforms: []string{"linux/amd64"}, Referrers: true}, []string{"1", signature}, nil},
		"include":        {selection.Selection{Include: []string{"1.2", "v"}}, []string{"1.2", "1.20", "1x2", "v3"}, []string{"11.2", "x1.2", "latest", "V3", signature}},
		"own anchors":    {selection.Selection{Include: []string{"^1$|^2"}}, []string{"1", "21"}, []string{"11", "12"}},
		"own flags":      {selection.Selection{Include: []string{"(?mi)^v"}}, []string{"V1", "v1"}, []string{"1v"}},
		"any signature":  {selection.Selection{Include: []string{"sha256"}}, []string{"sha256-0123456789ab"}, []string{signature, "sha256-" + hex64}},
		"exclude":        {selection.Selection{Exclude: []string{`.*-rc`, "1"}}, []string{"2", "latest"}, []string{"2-rc1", "1", "10", signature}},
		"both":           {selection.Selection{Include: []string{"2"}, Exclude: []string{"2.1"}}, []string{"2.0", "2"}, []string{"2.1", "2.10", "1"}},
		"semver": {selection.Selection{Semver: ">=1.2 <3"}, []string{"1.2", "v2", "2.9.9", "01.02"},
			[]string{"1.1.9", "3", "3.0.0", "2.0.0-rc1", "1.25-alpine", "latest", "1.2.3.4", signature}},
		"semver or":         {selection.Selection{Semver: "~1.4 || ^2, >=2.1"}, []string{"1.4.7", "2.1"}, []string{"1.5", "2.0"}},
		"semver prerelease": {selection.Selection{Semver: ">=2.0.0-0"}, []string{"2.0.0-rc1", "2.0.0"}, []string{"1.9"}},
		"list":              {selection.Selection{List: []string{"a", signature}}, []string{"a", signature}, []string{"ab", "", "b"}},
		"limit":             {selection.Selection{Limit: 1}, []string{"a", "b"}, []string{signature}},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := test.selection.Compile()
			require.NoError(t, err)
			for _, tag := range test.yes {
				require.True(t, m.Match(tag), tag)
			}
			for _, tag := range test.no {
				require.False(t, m.Match(tag), tag)
			}
		})
	}
}

func TestValidateTellsEverything(t *testing.T) {
	err := selection.Selection{
		Include:   []string{"1", "a)(b", "(?!rc)", ""},
		Exclude:   []string{`(a)\1`, "a{1001}"},
		Semver:    "newest",
		List:      []string{"a", "b c", strings.Repeat("a", 129)},
		Limit:     -1,
		Platforms: []string{"linux/amd64", "linux", "linux/amd46"},
	}.Validate()
	require.ErrorIs(t, err, selection.ErrInvalid)
	require.Equal(t, []string{
		"include[1]: \"a)(b\" is not a regular expression: unexpected ): a)(b",
		"include[2]: \"(?!rc)\" is not a regular expression: invalid or unsupported Perl syntax: (?! (RE2 has no lookahead or lookbehind; use exclude instead)",
		"include[3]: it is empty; write .* for all tags",
		"exclude[0]: \"(a)\\\\1\" is not a regular expression: invalid escape sequence: \\1",
		"exclude[1]: \"a{1001}\" is not a regular expression: invalid repeat count: {1001}",
		"semver: \"newest\" is not a version constraint such as \">=1.2 <3\"",
		"list[1]: tag \"b c\" is invalid",
		"list[2]: tag \"" + strings.Repeat("a", 129) + "\" is invalid",
		"list: cannot be combined with include, exclude, semver, newer_than or limit",
		"limit: -1 is negative, expected 0 or more",
		"platforms[1]: \"linux\" is not a platform, expected os/arch[/variant] such as linux/amd64",
		"platforms[2]: platform \"linux/amd46\": unknown architecture \"amd46\", expected amd64, arm64 or another GOARCH",
	}, strings.Split(err.Error(), "\n"))
	large := selection.Selection{Include: []string{strings.Repeat("a", selection.MaxBytes)}}
	require.ErrorContains(t, large.Validate(), "selection: it has")
	require.NoError(t, selection.Selection{}.Validate())
}

func TestOrder(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	for name, test := range map[string]struct {
		in   []selection.Candidate
		want []string
	}{
		"by time": {[]selection.Candidate{{reference.MustTag("a"), day(1)}, {reference.MustTag("1.0"), day(3)}, {reference.MustTag("2.0"), day(2)}}, []string{"1.0", "2.0", "a"}},
		"equal times by version": {[]selection.Candidate{{reference.MustTag("b"), day(1)}, {reference.MustTag("a"), day(1)}, {reference.MustTag("1.0"), day(1)}, {reference.MustTag("2.0"), day(1)}, {reference.MustTag("x"), day(2)}},
			[]string{"x", "2.0", "1.0", "a", "b"}},
		"one without a time": {[]selection.Candidate{{reference.MustTag("1.9"), day(3)}, {reference.MustTag("1.10"), day(1)}, {reference.MustTag("2"), time.Time{}}}, []string{"2", "1.10", "1.9"}},
		"versions": {untimed("latest", "1.9.0", "2.0.0-rc.2", "v2.0.0", "2.0.0-rc.10", "1.10", "edge", "v1.10.1", "1.25.3.4", "1.10.0"),
			[]string{"v2.0.0", "2.0.0-rc.10", "2.0.0-rc.2", "v1.10.1", "1.10", "1.10.0", "1.9.0", "1.25.3.4", "edge", "latest"}},
		"versions before names": {untimed("zzz", "0.1", "a", "0.0.1-alpha"), []string{"0.1", "0.0.1-alpha", "a", "zzz"}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 { // in any order of the listing
				rand.Shuffle(len(test.in), func(i, j int) { test.in[i], test.in[j] = test.in[j], test.in[i] })
				given := slices.Clone(test.in)
				var got []string
				for _, c := range selection.Order(test.in) {
					got = append(got, c.Tag.String())
				}
				require.Equal(t, test.want, got)
				require.Equal(t, given, test.in, "the caller's slice was changed")
			}
		})
	}
}

func untimed(tags ...string) []selection.Candidate {
	var c []selection.Candidate
	for _, tag := range tags {
		c = append(c, selection.Candidate{Tag: reference.MustTag(tag)})
	}
	return c
}

func TestCompanion(t *testing.T) {
	for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
		digest, ok := selection.Companion("sha256-" + hex64 + suffix)
		require.True(t, ok, suffix)
		require.Equal(t, "sha256:"+hex64, digest.String())
	}
	for _, tag := range []string{"latest", "sha256-0123456789ab", "sha256-" + hex64 + ".sig2", "sha256-" + hex64 + ".txt", "sha256-" + strings.ToUpper(hex64), "xsha256-" + hex64} {
		_, ok := selection.Companion(tag)
		require.False(t, ok, tag)
	}
}

func TestParsePlatforms(t *testing.T) {
	got, err := selection.ParsePlatforms([]string{
		"linux/x86_64", "linux/amd64", "linux/amd64/v1", "linux/amd64/v3", "linux/aarch64", "linux/arm64/v8", "linux/arm64/8", "linux/arm64/v9",
		"linux/arm", "linux/arm/7", "linux/armhf", "linux/armel", "linux/i386", "macos/arm64", "windows/amd64", "linux/s390x",
	})
	require.NoError(t, err)
	require.Equal(t, []string{
		"darwin/arm64", "linux/386", "linux/amd64", "linux/amd64/v3", "linux/arm", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/arm64/v9", "linux/s390x", "windows/amd64",
	}, got)

	for item, want := range map[string]string{
		"":                "expected os/arch[/variant]",
		"linux/":          "expected os/arch[/variant]",
		"linux/arm/v7/x":  "expected os/arch[/variant]",
		"Linux/amd64":     "write it in lower case, linux/amd64",
		"linus/amd64":     `unknown operating system "linus"`,
		"linux/arm46":     `unknown architecture "arm46"`,
		"linux/arm/v 7":   `variant "v 7" is invalid`,
		"linux/amd64\n":   `unknown architecture "amd64\n"`,
		"linux/amd64/v1 ": `variant "v1 " is invalid`,
	} {
		_, err := selection.ParsePlatforms([]string{"linux/amd64", item})
		require.ErrorIs(t, err, selection.ErrInvalid, item)
		require.ErrorContains(t, err, "platforms[1]: ", item)
		require.ErrorContains(t, err, want, item)
	}
}

func TestHash(t *testing.T) {
	one := selection.Selection{Include: []string{"a", "b"}, Exclude: []string{"c"}, Semver: ">=1  <2", Platforms: []string{"linux/amd64", "linux/arm64"}}
	same := selection.Selection{Include: []string{"b", "a", "a"}, Exclude: []string{"c"}, Semver: " >=1 <2", Platforms: []string{"linux/arm64", "linux/amd64"}}
	require.Equal(t, one.Hash(), same.Hash())
	require.Equal(t, []string{"b", "a", "a"}, same.Include, "Hash reordered the caller's slice")
	require.Equal(t, selection.Selection{}.Hash(), selection.Selection{Include: []string{}}.Hash())

	// Older versions must compute the same hash.
	require.Equal(t, "44136fa355b3678a1146ad16f7e8649e", selection.Selection{}.Hash())

	seen := map[string]selection.Selection{}
	for _, s := range []selection.Selection{
		{}, {Include: []string{"a"}}, {Exclude: []string{"a"}}, {List: []string{"a"}}, {Semver: "a"}, {Include: []string{"a", "b"}}, {Include: []string{"a,b"}},
		{Limit: 1}, {Platforms: []string{"a"}}, {WithoutAttestations: true}, {Referrers: true},
	} {
		require.NotContains(t, seen, s.Hash())
		seen[s.Hash()] = s
	}
}

func TestZero(t *testing.T) {
	require.Nil(t, selection.Selection{Include: []string{}}.Pointer())
	full := selection.Selection{
		Include: []string{"a"}, Exclude: []string{"a"}, Semver: "1", List: []string{"a"}, Limit: 1,
		Platforms: []string{"linux/amd64"}, WithoutAttestations: true, Referrers: true,
	}
	require.Equal(t, selection.Selection{Platforms: []string{"linux/amd64"}, WithoutAttestations: true, Referrers: true}, full.Contents())
	require.Equal(t, selection.Selection{Include: []string{"a"}, Exclude: []string{"a"}, Semver: "1", List: []string{"a"}, Limit: 1}, full.Tags())
	data, err := json.Marshal(full)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(data, &fields))
	for key, value := range fields { // each field alone restricts the tags
		var s selection.Selection
		one, err := json.Marshal(map[string]any{key: value})
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(one, &s))
		require.False(t, s.IsZero(), key)
		require.Equal(t, s, *s.Pointer())
	}
	require.Len(t, fields, 8)
}
