package transfer

// sizes are the numbers of bytes by which blobs are sent, read and resumed. Tests set smaller ones.
type sizes struct {
	// small is the size up to which a blob is sent in the request that ends its upload, which saves a
	// request. A larger blob is sent before, so that it need not be sent again if that request fails.
	small int64

	// pieces are the sizes to try, in this order, if a destination refuses a request as too large.
	// Cloudflare accepts 100 MB, and nginx 1 MiB by default.
	pieces []int64

	// part is the size of a part. Parts are in memory until the destination takes them.
	part int64

	// milestone is the number of bytes between two saved states of a sum.
	milestone int64

	// advance is how many bytes must have moved between two cuts for the copy to continue at once.
	// If fewer, the copy fails, and is retried later.
	advance int64
}

func usualSizes() sizes {
	return sizes{small: 4 << 20, pieces: []int64{64 << 20, 8 << 20, 1 << 20}, part: 8 << 20, milestone: 1 << 20, advance: 1 << 20}
}
