package display

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/reference"
)

func TestChanges(t *testing.T) {
	var out strings.Builder
	Changes(&out, "r", nil, 0, Screen{})
	require.Equal(t, "Run r has changed no tag.\n", out.String())

	of := func(tag string, from, to reference.Digest) change.Change {
		return change.Change{Source: reference.MustRepository("quay.io/a/b"), Tag: reference.MustTag(tag), From: from, To: to, Bytes: 2048, At: time.Date(2026, 3, 1, 12, 0, 0, 0, zone)}
	}
	one, two := reference.DigestOf([]byte("1")), reference.DigestOf([]byte("2"))
	out.Reset()
	Changes(&out, "r", []change.Change{of("1", one, two), of("2", reference.Digest{}, one), of("3", reference.Digest{}, reference.Digest{})}, 7, Screen{})
	lines := strings.Split(out.String(), "\n")
	require.Regexp(t, `^moved +quay.io/a/b:1 +sha256:6b86b273ff34 +sha256:d4735e3a265e +2.0 KiB +2026-03-01 12:00:00`, lines[1])
	require.Regexp(t, `^new +quay.io/a/b:2 +- +sha256:6b86b273ff34`, lines[2])
	require.Regexp(t, `^vanished +quay.io/a/b:3 +- +- `, lines[3])
	require.Equal(t, "and 7 more", lines[4])
	require.Equal(t, "Run r: 1 new, 1 moved, 1 vanished.", lines[6])

	out.Reset()
	kept := of("4", one, reference.Digest{})
	kept.Refused = two
	Changes(&out, "r", []change.Change{kept}, 0, Screen{})
	require.Regexp(t, `\nkept +quay.io/a/b:4 +sha256:6b86b273ff34 +not sha256:d4735e3a265e `, out.String())
}
