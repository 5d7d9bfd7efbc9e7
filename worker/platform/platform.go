// Package platform makes an index of just some of the platforms of another.
package platform

import (
	"errors"
	"slices"
	"strings"
)

var (
	// ErrNoPlatform is returned for an index with none of the platforms.
	ErrNoPlatform = errors.New("none of the platforms")
	// ErrConfig is returned for what is not the configuration of an image.
	ErrConfig = errors.New("not an image configuration")
)

// platform is what an image runs on, or what is wanted of one.
type platform struct{ os, arch, variant string }

// Other names of operating systems and architectures that images give, from
// containerd's platforms package.
var (
	systems       = map[string]string{"macos": "darwin"}
	architectures = map[string]string{
		"x86_64": "amd64", "x86-64": "amd64", "i386": "386", "aarch64": "arm64", "armhf": "arm/v7", "armel": "arm/v6",
	}
)

// variants are the ones meant by an architecture that names none; containerd has
// the same.
var variants = map[string]string{"amd64": "v1", "arm": "v7", "arm64": "v8"}

// read takes a platform's parts as they come; what is missing is empty.
func read(parts []string) platform {
	parts = append(slices.Clip(parts), "", "", "")
	p := platform{strings.ToLower(parts[0]), strings.ToLower(parts[1]), strings.ToLower(parts[2])}
	if system, ok := systems[p.os]; ok {
		p.os = system
	}
	if arch, ok := architectures[p.arch]; ok {
		arch, variant, _ := strings.Cut(arch, "/")
		p.arch = arch
		if variant != "" {
			p.variant = variant
		}
	}
	if p.variant != "" && strings.Trim(p.variant, "0123456789") == "" {
		p.variant = "v" + p.variant
	}
	return p
}

// covers tells whether an image for the other platform is one for p.
func (p platform) covers(image platform) bool {
	if image.variant == "" {
		image.variant = variants[image.arch]
	}
	return p.os == image.os && p.arch == image.arch && (p.variant == "" || p.variant == image.variant)
}
