package subject_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/subject"
)

// maxSubject is the longest file name of a store.
const maxSubject = 255

// token is the alphabet of one encoded token: nothing that NATS treats specially.
const token = "abcdefghijklmnopqrstuvwxyz0123456789-_=ABCDEF"

func FuzzFailure(f *testing.F) {
	long := strings.Repeat("a", 300)
	for _, s := range [][4]string{
		{"quay.io", "osism/osism", "quay.io", "osism/Osism"},
		{"quay.io", "a", "quay=2Eio", "a"},
		{"localhost:5000", "a.b", "localhost:5000", "a/b"},
		{"a", "b.c", "a.b", "c"},
		{"", "a", "=e", "a"},
		{"r", long, "r", long + "a"},
		{"r", long + ".", "r", long + "."},
		{"r*", ">", "r>", "*"},
		{"r\x00", "ü", "r", "\xfc"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	name := strings.Repeat("n", 32)
	f.Fuzz(func(t *testing.T, registry, repository, otherRegistry, otherRepository string) {
		one := subject.Failure(name, registry, repository, 1)
		other := subject.Failure(name, otherRegistry, otherRepository, 1)
		require.Equal(t, registry == otherRegistry && repository == otherRepository, one == other)

		page := subject.Failure(name, registry, repository, 1234567890)
		ofName, record, number, err := subject.ParseFailure(page)
		require.NoError(t, err)
		require.Equal(t, name, ofName)
		require.Equal(t, one, record)
		require.Equal(t, 1234567890, number)
		_, record, number, err = subject.ParseFailure(one)
		require.NoError(t, err)
		require.Equal(t, one, record)
		require.Equal(t, 1, number)
		require.Less(t, len(page), maxSubject)
		tokens := strings.Split(page, ".")
		require.Len(t, tokens, 6)
		for _, encoded := range tokens {
			require.NotEmpty(t, encoded)
			require.Empty(t, strings.Trim(encoded, token))
		}

		a := subject.NewAddress(name, "20260102-030405-678-abcd", registry, "12-18446744073709551615")
		for _, root := range []string{subject.Plan, subject.Later, subject.Chunk} {
			require.Less(t, len(a.Under(root)), maxSubject)
			got, err := subject.ParseAddress(a.Under(root))
			require.NoError(t, err)
			require.Equal(t, a, got)
		}
		require.Equal(t, "12", a.Number())
		if decoded, whole := a.RegistryName(); whole {
			require.Equal(t, registry, decoded)
		} else {
			require.Greater(t, 3*len(registry), len(a.Registry))
			require.Contains(t, a.Registry, "=h")
		}
	})
}

func TestKnownSubjects(t *testing.T) {
	a := subject.NewAddress("default", "r1", "quay.io:443", "3")
	require.Equal(t, "mirror.chunk.default.r1.quay=2Eio=3A443.3", a.Under(subject.Chunk))
	require.Equal(t, "3", a.Number())
	require.Equal(t, "mirror.failed.default.docker=2Eio.library=2Fnginx", subject.Failure("default", "docker.io", "library/nginx", 1))
	require.Equal(t, "mirror.failed.default.docker=2Eio.library=2Fnginx.2", subject.Failure("default", "docker.io", "library/nginx", 2))
	require.Equal(t, "mirror.*.default.r1.>", subject.OfRun("default", "r1"))
	require.Equal(t, "mirror.plan.default.>", subject.OfName(subject.Plan, "default"))
	require.Equal(t, "mirror.plan.default.r1.>", subject.OfRunUnder(subject.Plan, "default", "r1"))
}

func TestForeignSubjects(t *testing.T) {
	for _, s := range []string{
		"", "mirror.chunk.default.r1.quay=2Eio", "mirror.chunk.default.r1.quay.io.3",
		"mirror.failed.default.quay=2Eio.osism.2", "other.chunk.default.r1.quay=2Eio.3",
		"mirror.plan", "mirror.plan.foo", "mirror.plan.No_Name.r1.quay=2Eio.3", "mirror.plan.default.*.quay=2Eio.3",
		"mirror.later.default.r1..3", "mirror.later.default.r1.quay=2Eio.\x1b[31m", "mirror.later.default.r1.quay=2Eio.>",
	} {
		_, err := subject.ParseAddress(s)
		require.ErrorIs(t, err, subject.ErrNotOurs, s)
	}
	for _, s := range []string{
		"", "mirror.failed", "mirror.failed.x", "mirror.failed.default.quay=2Eio", "mirror.failed.default.quay=2Eio.a.b",
		"mirror.failed.default.quay=2Eio.a.1", "mirror.failed.default.quay=2Eio.a.02", "mirror.failed.default.quay=2Eio.a.-2",
		"mirror.failed.default.quay=2Eio.a.2.3", "mirror.failed.No_Name.quay=2Eio.a", "mirror.failed.default.*.a",
		"mirror.failed.default.quay=2Eio.\x1b[31m", "mirror.chunk.default.quay=2Eio.a",
	} {
		_, _, _, err := subject.ParseFailure(s)
		require.ErrorIs(t, err, subject.ErrNotOurs, s)
	}
}

func TestValidName(t *testing.T) {
	for _, s := range []string{"default", "a", "0-9", strings.Repeat("a", 32)} {
		require.True(t, subject.ValidName(s), s)
	}
	for _, s := range []string{"", "A", "a.b", "a*", "a b", "a\n", "ü", strings.Repeat("a", 33)} {
		require.False(t, subject.ValidName(s), s)
	}
}
