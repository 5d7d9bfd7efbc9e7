package subject_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/subject"
)

// FuzzParseAddress: a parsed subject is built as the same subject.
func FuzzParseAddress(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		a, err := subject.ParseAddress(text)
		if err != nil {
			require.ErrorIs(t, err, subject.ErrNotOurs)
			return
		}
		require.Contains(t, []string{a.Under(subject.Plan), a.Under(subject.Later), a.Under(subject.Chunk)}, text)
		if name, ok := a.RegistryName(); ok && a == subject.NewAddress(a.Name, a.Run, name, a.Token) {
			require.NotEmpty(t, a.Registry)
		}
	})
}
