package platform_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/platform"
)

func TestImage(t *testing.T) {
	for _, test := range []struct {
		wanted, config string
		matches        bool
	}{
		{"linux/arm64", `{"os":"linux","architecture":"arm64"}`, true},
		{"linux/arm64", `{"os":"linux","architecture":"arm64","variant":"v9"}`, true},
		{"linux/arm64/v8", `{"os":"linux","architecture":"arm64"}`, true},
		{"linux/arm64/v8", `{"os":"linux","architecture":"arm64","variant":"v9"}`, false},
		{"linux/arm", `{"os":"linux","architecture":"arm","variant":"v6"}`, true},
		{"linux/arm/v7", `{"os":"linux","architecture":"arm"}`, true},
		{"linux/arm/v7", `{"os":"linux","architecture":"arm","variant":"v6"}`, false},
		{"linux/amd64", `{"os":"linux","architecture":"arm64"}`, false},
		{"linux/amd64", `{"os":"windows","architecture":"amd64","os.version":"10.0.17763"}`, false},
		{"windows/amd64", `{"os":"windows","architecture":"amd64","os.version":"10.0.17763"}`, true},
		{"linux/amd64", `{"os":"Linux","architecture":"x86_64"}`, true},
		{"linux/arm", `{"os":"linux","architecture":"armhf"}`, true},
		{"linux/arm/v6", `{"os":"linux","architecture":"armhf"}`, false},
		{"linux/arm/v6", `{"os":"linux","architecture":"arm","variant":"6"}`, true},
		{"darwin/arm64", `{"os":"macos","architecture":"aarch64"}`, true},
		{"linux/amd64", `{}`, true},
	} {
		matches, err := platform.Wanted{Platforms: []string{test.wanted}}.Image([]byte(test.config))
		require.NoError(t, err)
		require.Equal(t, test.matches, matches, "%s of %s", test.wanted, test.config)
	}
	matches, err := platform.Wanted{}.Image([]byte(`{"os":"linux","architecture":"arm64"}`))
	require.NoError(t, err)
	require.True(t, matches)
	_, err = platform.Wanted{}.Image([]byte("apiVersion: v2"))
	require.ErrorIs(t, err, platform.ErrConfig)
}
