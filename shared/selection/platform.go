package selection

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// systems and architectures are the values of GOOS and GOARCH, which the OCI image specification
// prescribes.
var (
	systems = []string{
		"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd",
		"openbsd", "plan9", "solaris", "wasi", "wasip1", "windows",
	}
	architectures = []string{
		"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
		"ppc64le", "riscv64", "s390x", "wasm",
	}
)

// These are the other names of systems and architectures that containerd accepts
// (github.com/containerd/platforms, normalizeOS and normalizeArch). Some names of architectures include
// a variant.
var (
	otherSystems       = map[string]string{"macos": "darwin"}
	otherArchitectures = map[string]string{
		"i386": "386", "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm/v7", "armel": "arm/v6",
	}
)

// defaultVariants are the variants of images that state none, as in containerd.
var defaultVariants = map[string]string{"amd64": "v1", "arm": "v7", "arm64": "v8"}

// Platform is the platform of an image, in the names of the OCI image specification. Unknown names stay as
// they are.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"` // optional
}

// NewPlatform returns the platform with these names. They may have any spelling that containerd accepts.
func NewPlatform(os, architecture, variant string) Platform {
	p := Platform{strings.ToLower(os), strings.ToLower(architecture), strings.ToLower(variant)}
	p.OS = cmp.Or(otherSystems[p.OS], p.OS)
	if name, ok := otherArchitectures[p.Architecture]; ok {
		architecture, variant, _ := strings.Cut(name, "/")
		p.Architecture, p.Variant = architecture, cmp.Or(variant, p.Variant)
	}
	if p.Variant != "" && strings.Trim(p.Variant, "0123456789") == "" {
		p.Variant = "v" + p.Variant
	}
	return p
}

// SplitPlatform returns the platform in a text of the form os/arch[/variant].
func SplitPlatform(text string) Platform {
	parts := append(strings.Split(text, "/"), "", "")
	return NewPlatform(parts[0], parts[1], parts[2])
}

// Covers reports whether an image for the platform image is wanted if p is. Without a variant, p covers all
// variants.
func (p Platform) Covers(image Platform) bool {
	image.Variant = cmp.Or(image.Variant, defaultVariants[image.Architecture])
	return p.OS == image.OS && p.Architecture == image.Architecture && (p.Variant == "" || p.Variant == image.Variant)
}

// String is os/arch[/variant].
func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

var variant = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// ParsePlatforms parses platforms in the form os/arch[/variant], in lower case. It returns them in their
// canonical spelling, sorted and without duplicates. Its error is an *Error with all problems, under the key
// "platforms". An unknown architecture is an error, because it would select no image.
func ParsePlatforms(items []string) ([]string, error) {
	var platforms []string
	var problems []Problem
	for i, item := range items {
		platform, why := parsePlatform(item)
		if why != "" {
			problems = append(problems, Problem{"platforms", i, why})
			continue
		}
		platforms = append(platforms, platform)
	}
	if len(problems) > 0 {
		return nil, &Error{Problems: problems}
	}
	return set(platforms), nil
}

func parsePlatform(item string) (platform, why string) {
	parts := strings.Split(item, "/")
	p := SplitPlatform(item)
	switch {
	case len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, ""):
		return "", fmt.Sprintf("%q is not a platform, expected os/arch[/variant] such as linux/amd64", item)
	case strings.ToLower(item) != item:
		return "", fmt.Sprintf("platform %q: write it in lower case, %s", item, strings.ToLower(item))
	case !slices.Contains(systems, p.OS):
		return "", fmt.Sprintf("platform %q: unknown operating system %q, expected linux or another GOOS", item, parts[0])
	case !slices.Contains(architectures, p.Architecture):
		return "", fmt.Sprintf("platform %q: unknown architecture %q, expected amd64, arm64 or another GOARCH", item, parts[1])
	case len(parts) == 3 && !variant.MatchString(parts[2]):
		return "", fmt.Sprintf("platform %q: variant %q is invalid", item, parts[2])
	case p.Architecture != "arm" && p.Variant == defaultVariants[p.Architecture]:
		// linux/arm stands for all its variants, so linux/arm/v7 is another platform.
		p.Variant = ""
	}
	return p.String(), ""
}
