package message

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// formats are chunks with every field of their version.
var formats = map[int]Chunk{
	1: {Version: 1, Name: "default", Run: "20260101-000000-000-0000", Number: 3, Registry: "quay.io", Republished: true, Repositories: []Repository{{
		Source: reference.MustRepository("quay.io/osism/osism"), Destination: reference.MustRepository("registry.example.com/mirror/osism/osism"), Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), Attempts: 1,
		Images: []Image{{Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), MediaType: "application/vnd.oci.image.index.v1+json", Attempts: 2}},
		Selection: &selection.Selection{
			Include: []string{"1"}, Exclude: []string{"2"}, Semver: ">=1", List: []string{"1.0"}, Limit: 5,
			Platforms: []string{"linux/amd64"}, WithoutAttestations: true, Referrers: true,
		},
	}}},
	2: {Version: 2, Name: "default", Run: "20260101-000000-000-0000", Number: 3, Registry: "quay.io", Republished: true, Repositories: []Repository{{
		Source: reference.MustRepository("quay.io/osism/osism"), Destination: reference.MustRepository("registry.example.com/mirror/osism/osism"), Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), Attempts: 1,
		Found:  true,
		Images: []Image{{Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), MediaType: "application/vnd.oci.image.index.v1+json", Attempts: 2}},
		Selection: &selection.Selection{
			Include: []string{"1"}, Exclude: []string{"2"}, Semver: ">=1", List: []string{"1.0"}, Limit: 5,
			Platforms: []string{"linux/amd64"}, WithoutAttestations: true, Referrers: true,
		},
	}}},
	3: {Version: 3, Name: "default", Run: "20260101-000000-000-0000", Number: 3, Registry: "quay.io", Republished: true, Repositories: []Repository{{
		Source: reference.MustRepository("quay.io/osism/osism"), Destination: reference.MustRepository("registry.example.com/mirror/osism/osism"), Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), Attempts: 1,
		Found:  true,
		Images: []Image{{Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), MediaType: "application/vnd.oci.image.index.v1+json", Attempts: 2}},
		Selection: &selection.Selection{
			Include: []string{"1"}, Exclude: []string{"2"}, Semver: ">=1", List: []string{"1.0"}, Limit: 5,
			Platforms: []string{"linux/amd64"}, WithoutAttestations: true, Referrers: true, Immutable: []string{"1"},
			NewerThan: selection.Age(90 * 24 * time.Hour), MinAge: selection.Age(3 * 24 * time.Hour), MinTags: 2,
			Keep: []string{"1"}, Backup: selection.Backup{Template: "{tag}-old", Keep: 1},
		},
	}}},
}

// TestEveryVersionIsUnderstood: messages of older planners can be decoded.
func TestEveryVersionIsUnderstood(t *testing.T) {
	require.Len(t, formats, Version)
	for version, want := range formats {
		got, err := Decode(format(t, version))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// TestVersionStandsForTheFormat: the test fails if a field was added or removed. Then raise
// Version: an older worker would drop a field that it does not know from its remainders.
func TestVersionStandsForTheFormat(t *testing.T) {
	requireFilled(t, reflect.ValueOf(formats[Version]))
	data, err := formats[Version].Encode()
	require.NoError(t, err)
	var compact bytes.Buffer
	require.NoError(t, json.Compact(&compact, format(t, Version)))
	require.Equal(t, compact.String(), string(data))
}

func format(t *testing.T, version int) []byte {
	data, err := os.ReadFile(filepath.Join("testdata", "v"+strconv.Itoa(version)+".json"))
	require.NoError(t, err)
	return data
}

func requireFilled(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		requireFilled(t, v.Elem())
	case reflect.Slice:
		requireFilled(t, v.Index(0))
	case reflect.Struct:
		for i := range v.NumField() {
			require.False(t, v.Field(i).IsZero(), "%s.%s", v.Type(), v.Type().Field(i).Name)
			requireFilled(t, v.Field(i))
		}
	}
}
