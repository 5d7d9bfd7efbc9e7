package mirror_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
)

// TestNoPartIsOptional: New returns an error if a part is missing.
func TestNoPartIsOptional(t *testing.T) {
	whole := mirrortest.New(t, registry.NewClient(registry.Options{}), engine(t, nil)).Parts
	parts := reflect.TypeOf(whole)
	for i := range parts.NumField() {
		lacks := whole
		part := reflect.ValueOf(&lacks).Elem().Field(i)
		if part.IsZero() { // Engine or Builtin
			continue
		}
		part.SetZero()
		_, err := mirror.New(lacks)
		require.ErrorIs(t, err, mirror.ErrIncomplete)
		require.ErrorContains(t, err, parts.Field(i).Name)
	}
}
