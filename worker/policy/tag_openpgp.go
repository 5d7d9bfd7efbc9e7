//go:build containers_image_openpgp

package policy

// CanVerify reports whether this program can verify signatures.
const CanVerify = true
