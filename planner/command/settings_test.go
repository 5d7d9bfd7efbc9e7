package command

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
)

// planOf prepares a plan of a list with environment variables.
func planOf(t *testing.T, text string, environment map[string]string) (*planned, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "list.yml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	t.Setenv("MIRROR_SOURCE_URL", file)
	t.Setenv("MIRROR_DEST_URL", "127.0.0.1:5000")
	for _, variable := range []string{"FILTER", "LIMIT", "PLATFORMS", "ATTESTATIONS", "REFERRERS"} {
		t.Setenv(variable, environment[variable])
	}
	var s settings
	if err := config.Load(&s.job, &s.name); err != nil {
		return nil, err
	}
	return prepare(t.Context(), &s, nil, io.Discard)
}

func TestVariablesSelect(t *testing.T) {
	const text = "containers: [nginx, 'nginx:1', {image: redis, tags: {limit: 1}, attestations: true}]"
	all := map[string]string{"FILTER": "1.2", "LIMIT": "5", "PLATFORMS": "linux/arm64/v8, linux/x86_64", "ATTESTATIONS": "false", "REFERRERS": "true"}
	p, err := planOf(t, text, all)
	require.NoError(t, err)
	whole := selection.Selection{Include: []string{"1.2"}, Limit: 5, Platforms: []string{"linux/amd64", "linux/arm64"}, WithoutAttestations: true, Referrers: true}
	own := whole
	own.Limit, own.WithoutAttestations = 1, false
	for i, want := range []selection.Selection{whole, whole.Contents(), own} {
		require.Equal(t, want, p.chunks[0].Entries[i].Selection)
	}

	// A different selection makes a different plan, so that the unfinished run does not continue.
	fingerprints := map[string]string{}
	for variable, value := range all {
		one, err := planOf(t, text, map[string]string{variable: value})
		require.NoError(t, err)
		require.NotContains(t, fingerprints, one.fingerprint)
		fingerprints[one.fingerprint] = variable
	}
	nothing, err := planOf(t, text, nil)
	require.NoError(t, err)
	require.NotContains(t, fingerprints, nothing.fingerprint)
	require.True(t, nothing.chunks[0].Entries[0].Selection.IsZero())
}

func TestBadVariablesAreNamed(t *testing.T) {
	_, err := planOf(t, "", map[string]string{"FILTER": "(", "LIMIT": "-1", "PLATFORMS": "linux/amd46,,linux/amd64", "ATTESTATIONS": "maybe", "REFERRERS": "2"})
	require.ErrorIs(t, err, config.ErrInvalid)
	require.Equal(t, []string{
		`LIMIT="-1": expected a whole number, 0 or more`,
		`ATTESTATIONS="maybe": expected true or false`,
		`REFERRERS="2": expected true or false`,
		`FILTER: expected a regular expression (RE2): "(" is not a regular expression: missing closing ): (`,
		`PLATFORMS: expected os/arch[/variant], separated by commas: platform "linux/amd46": unknown architecture "amd46", expected amd64, arm64 or another GOARCH; "" is not a platform, expected os/arch[/variant] such as linux/amd64`,
	}, strings.Split(err.Error(), "\n")[1:])

	_, err = planOf(t, "", map[string]string{"LIMIT": "many"})
	require.ErrorContains(t, err, `LIMIT="many": expected a whole number, 0 or more`)

	// A larger number would be negative in a plan, or would not fit into a message.
	for _, variable := range []string{"CHUNK_SIZE", "CHUNK_NUMBER", "LIMIT"} {
		t.Setenv(variable, "18446744073709551615")
		var s settings
		require.ErrorContains(t, config.Load(&s.job), variable+`="18446744073709551615": expected a whole number, 0 to 2147483647`)
		t.Setenv(variable, "2147483647")
		_, err := planOf(t, "containers: [nginx]", map[string]string{"LIMIT": "2147483647"})
		require.NoError(t, err)
		t.Setenv(variable, "")
	}
}

// TestPublished: the output has the time of the last chunk if that is not due at once.
func TestPublished(t *testing.T) {
	for interval, want := range map[string]string{
		"0s": "Published run r1: 2 entries in 2 chunks.\n",
		"1h": "Published run r1: 2 entries in 2 chunks.\nThe last chunk is due at ",
	} {
		t.Setenv("CHUNK_SIZE", "1")
		t.Setenv("CHUNK_INTERVAL", interval)
		p, err := planOf(t, "containers: [nginx, redis]", nil)
		require.NoError(t, err)
		var out strings.Builder
		p.published(&out, run.Run{ID: "r1", Entries: 2, Chunks: 2})
		require.True(t, strings.HasPrefix(out.String(), want), out.String())
		require.Equal(t, strings.Count(want, "\n")+strings.Count(want, "due"), strings.Count(out.String(), "\n"))
	}
}

// TestTooLong: a plan whose last chunk is due after its run is forgotten is refused.
func TestTooLong(t *testing.T) {
	const three = "containers: [quay.io/a/b:1, quay.io/a/b:2, quay.io/a/b:3]"
	for interval, kept := range map[string]bool{"360h": true, "361h": false, "2000000h": false} {
		t.Run(interval, func(t *testing.T) {
			t.Setenv("CHUNK_SIZE", "1")
			t.Setenv("CHUNK_INTERVAL", interval)
			p, err := planOf(t, three, nil)
			if kept {
				require.NoError(t, err)
				require.Len(t, p.chunks, 3)
				return
			}
			require.ErrorIs(t, err, plan.ErrTooLong)
			require.EqualError(t, err, "CHUNK_INTERVAL is too long: with "+interval+"0m0s, the last of 3 chunks would be due more than 30 days after the first, "+
				"when the run is no longer kept: set a shorter CHUNK_INTERVAL or a larger CHUNK_SIZE")
			t.Setenv("CHUNK_NUMBER", "3")
			_, err = planOf(t, three, nil)
			require.NoError(t, err, "it is due now")
		})
	}
}
