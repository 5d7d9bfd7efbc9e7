package transfer

import "time"

// Together is how many blobs of one image are copied at once.
const Together = together

// UsualPieces are the usual sizes of pieces.
var UsualPieces = usualSizes().pieces

// Shrink divides all sizes.
func (b *Blobs) Shrink(by int64) *Blobs {
	s := usualSizes()
	for _, size := range []*int64{&s.small, &s.part, &s.milestone, &s.advance} {
		*size /= by
	}
	for i := range s.pieces {
		s.pieces[i] /= by
	}
	b.sizes = s
	return b
}

// SetSlow sets slowPart.
func (b *Blobs) SetSlow(d time.Duration) { b.splits.slow = d }

// IsFaster is isFaster. Its arguments are how long a number of bytes takes over one connection and over
// several.
func IsFaster(one, several time.Duration) bool {
	return isFaster(pace{2 << 20, 2 * one}, pace{1 << 20, several})
}
