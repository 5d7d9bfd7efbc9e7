package registrytest_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

func TestCatalogueHasOneBrokenImage(t *testing.T) {
	src, dst := registrytest.New(t), registrytest.New(t)
	contents, err := registrytest.Catalogue(src)
	require.NoError(t, err)
	require.Len(t, contents.Repositories, 6)
	names, err := src.Repositories()
	require.NoError(t, err)
	require.Len(t, names, 6)

	for _, repository := range contents.Repositories {
		require.NotEmpty(t, repository.Tags)
		for _, tag := range repository.Tags {
			err := src.Check(repository.Name, tag)
			if repository.Name == contents.BrokenRepository && tag == contents.BrokenTag {
				require.ErrorIs(t, err, registrytest.ErrNotFound)
				require.ErrorContains(t, err, contents.BrokenLayer)
				continue
			}
			require.NoError(t, err)
		}
	}
	broken, err := src.Digest(contents.BrokenRepository, contents.BrokenTag)
	require.NoError(t, err)
	output, err := copyByDigest(t, src, dst, contents.BrokenRepository, broken, plain...)
	require.Error(t, err)
	require.Contains(t, output, "404")
	require.NoError(t, contents.Mend())
	requireCopy(t, src, dst, contents.BrokenRepository, broken)
}

func TestSyntheticRepositoryCanBeCopied(t *testing.T) {
	src, dst := registrytest.New(t), registrytest.New(t)
	require.NoError(t, src.AddSynthetic("many", registrytest.Synthetic{
		Tags: registrytest.Numbered("v1.%d", 50_000), Distinct: 10_000,
	}))
	tags, err := remote.List(repository(t, src, "many"), remote.WithContext(t.Context()))
	require.NoError(t, err)
	require.Len(t, tags, 50_000)
	head, err := remote.Head(repository(t, src, "many").Tag("v1.49999"))
	require.NoError(t, err)
	dgst, err := src.Digest("many", "v1.49999")
	require.NoError(t, err)
	require.Equal(t, dgst, head.Digest.String())
	require.NoError(t, src.Check("many", dgst))
	requireCopy(t, src, dst, "many", dgst)
}
