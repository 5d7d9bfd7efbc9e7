package selection

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
)

func TestBackup(t *testing.T) {
	digest := reference.MustDigest("sha256:" + strings.Repeat("ab", 32))
	at := time.Date(2026, 11, 27, 2, 3, 4, 0, time.FixedZone("", 3600))
	long := strings.Repeat("x", 128)
	for template, want := range map[string]string{
		"{tag}-{date}": "latest-20261127-010304", "old-{tag}-{digest}": "old-latest-abababababab", "{tag}-previous": "latest-previous",
		"{tag}_{tag}.{digest}": "latest_latest.abababababab",
	} {
		b := Backup{Template: template, Keep: 3}
		require.NoError(t, b.Validate(), template)
		name, err := b.Name(reference.MustTag("latest"), digest, at)
		require.NoError(t, err)
		require.Equal(t, want, name.String())
		name, err = b.Name(reference.MustTag(long), digest, at)
		require.NoError(t, err)
		require.LessOrEqual(t, len(name.String()), 128)
		other, err := b.Name(reference.MustTag(long[1:]+"y"), digest, at)
		require.NoError(t, err)
		require.NotEqual(t, name, other, "two long tags have different backups")
		again, err := b.Name(reference.MustTag(long), digest, at)
		require.NoError(t, err)
		require.Equal(t, name, again)
	}
	for template, why := range map[string]string{
		"{tag}": "expected {tag} and something else", "{date}": "expected {tag}", "": "expected {tag}", "{tag}-{time}": "has {time}, expected {tag}, {date} and {digest}",
		"{tag}/{date}": "does not make a tag", "-{tag}": "does not make a tag", "{tag} old": "does not make a tag", "{tag}-{": "does not make a tag",
		"{tag}-" + strings.Repeat("x", 100): "leaves too little room", "{tag}{tag}{tag}{tag}{tag}": "leaves too little room",
	} {
		require.ErrorContains(t, Backup{Template: template, Keep: 1}.Validate(), why, template)
	}
	require.EqualError(t, Backup{Template: "{tag}-old"}.Validate(), "0 backups, expected 1 or more")
}
