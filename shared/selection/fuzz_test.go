package selection_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// FuzzMatch: a valid selection can match any tag, and Order returns the same tags.
func FuzzMatch(f *testing.F) {
	f.Fuzz(func(t *testing.T, include, exclude, semver, platform, one, other string) {
		s := selection.Selection{Semver: semver, Limit: 2}
		for list, text := range map[*[]string]string{&s.Include: include, &s.Exclude: exclude, &s.Platforms: platform} {
			if text != "" {
				*list = []string{text}
			}
		}
		matcher, err := s.Compile()
		require.Equal(t, err == nil, s.Validate() == nil)
		if err != nil {
			return
		}
		var candidates []selection.Candidate
		for _, name := range []string{one, other} {
			matcher.Match(name)
			if tag, err := reference.ParseTag(name); err == nil {
				candidates = append(candidates, selection.Candidate{Tag: tag})
			}
			if digest, ok := selection.Companion(name); ok {
				require.Contains(t, name, digest.Hex())
			}
		}
		require.ElementsMatch(t, candidates, selection.Order(candidates))
		platforms, err := selection.ParsePlatforms(s.Platforms)
		require.NoError(t, err)
		again, err := selection.ParsePlatforms(platforms)
		require.NoError(t, err)
		require.Equal(t, platforms, again)
	})
}
