package check

import (
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/worker/compare"
)

// pulls is how many manifests a copy gets from the source. How many an index lists is known
// only if the source's listing has its platforms, and never of attestations.
func pulls(j *compare.Job) (n int, atLeast bool) {
	covered, _ := j.Covered()
	switch {
	case j.IsImage():
		return 1, false
	case types.MediaType(j.MediaType).IsIndex(), len(j.Listed.Platforms) > 1:
		return 1 + covered, true
	}
	return 1, true
}

// size is how many bytes a copy brings; 0 if the source's listing does not have it.
func size(j *compare.Job) int64 {
	if len(compare.Wanted(j.Entry).Platforms) == 0 || len(j.Listed.Platforms) == 0 {
		return j.Listed.Size
	}
	_, covered := j.Covered()
	return covered
}

// cost adds the pulls and bytes of a copy.
func (c *Counts) cost(j *compare.Job) {
	n, atLeast := pulls(j)
	c.Pulls += n
	c.PullsAtLeast = c.PullsAtLeast || atLeast
	if n := size(j); n > 0 {
		c.addBytes(n)
	} else {
		c.BytesAtLeast = true
	}
}

func (c *Counts) addBytes(n int64) {
	if c.Bytes == nil {
		c.Bytes = new(int64)
	}
	*c.Bytes += n
}
