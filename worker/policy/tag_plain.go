//go:build !containers_image_openpgp

package policy

// CanVerify is whether this program can check signatures. What does that, in package
// verify, needs the build tag: without it, containers/image needs cgo and gpgme.
const CanVerify = false
