package check

import "github.com/google/go-containerregistry/pkg/v1/types"

// unwanted tells whether the listing has told the platforms, and none is wanted.
func (i *image) unwanted() bool {
	n, _ := i.covered()
	return len(i.listed.Platforms) > 0 && n == 0
}

// covered counts the wanted ones of the platforms that the listing told, with the
// size of their layers.
func (i *image) covered() (n int, size int64) {
	for _, p := range i.listed.Platforms {
		if i.wanted.Covers(p.Name) {
			n++
			size += p.Size
		}
	}
	return n, size
}

// pulls is how many manifests a copy gets from the source. What an index lists is
// known only as far as a listing told its platforms: attestations are in none.
func (i *image) pulls() (n int, atLeast bool) {
	switch {
	case isImage(i.mediaType):
		return 1, false
	case types.MediaType(i.mediaType).IsIndex(), len(i.listed.Platforms) > 1:
		n, _ := i.covered()
		return 1 + n, true
	}
	return 1, true
}

// bytes is the size of what a copy brings, as far as the listing told; 0: it did not.
func (i *image) bytes() int64 {
	if len(i.wanted.Platforms) == 0 || len(i.listed.Platforms) == 0 {
		return i.listed.Size
	}
	_, size := i.covered()
	return size
}

// cost adds what a copy takes.
func (c *Counts) cost(i *image) {
	pulls, atLeast := i.pulls()
	c.Pulls += pulls
	c.PullsAtLeast = c.PullsAtLeast || atLeast
	if size := i.bytes(); size > 0 {
		c.addBytes(size)
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

func isImage(mediaType string) bool {
	kind := types.MediaType(mediaType)
	return kind.IsImage() || kind.IsSchema1()
}
