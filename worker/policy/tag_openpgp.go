//go:build containers_image_openpgp

package policy

// CanVerify is whether this program can check signatures.
const CanVerify = true
