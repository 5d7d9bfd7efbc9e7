package selection

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// systems and architectures are the values of GOOS and GOARCH that the OCI image
// specification asks for, and the other names that containerd takes for them
// (github.com/containerd/platforms, normalizeOS and normalizeArch).
var (
	systems = []string{
		"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd",
		"openbsd", "plan9", "solaris", "wasi", "wasip1", "windows",
		"macos",
	}
	architectures = []string{
		"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
		"ppc64le", "riscv64", "s390x", "wasm",
		"i386", "x86_64", "x86-64", "aarch64", "armhf", "armel",
	}
)

var variant = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// ParsePlatforms reads os/arch[/variant], in lower case, and returns what it read
// normalised, sorted and without duplicates. Its error is an *Error with every
// problem, under the key "platforms". An architecture that nobody has is one: it
// would quietly skip every image.
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
	switch {
	case len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, ""):
		return "", fmt.Sprintf("%q is not a platform, expected os/arch[/variant] such as linux/amd64", item)
	case strings.ToLower(item) != item:
		return "", fmt.Sprintf("platform %q: write it in lower case, %s", item, strings.ToLower(item))
	case !slices.Contains(systems, parts[0]):
		return "", fmt.Sprintf("platform %q: unknown operating system %q, expected linux or another GOOS", item, parts[0])
	case !slices.Contains(architectures, parts[1]):
		return "", fmt.Sprintf("platform %q: unknown architecture %q, expected amd64, arm64 or another GOARCH", item, parts[1])
	case len(parts) == 2:
		return normalize(parts[0], parts[1], ""), ""
	case !variant.MatchString(parts[2]):
		return "", fmt.Sprintf("platform %q: variant %q is invalid", item, parts[2])
	}
	return normalize(parts[0], parts[1], parts[2]), ""
}

// normalize gives one name to every spelling of a platform: containerd's rules, but
// that linux/arm stays without a variant, which stands for every one of them, instead
// of becoming linux/arm/v7.
func normalize(os, architecture, variant string) string {
	if os == "macos" {
		os = "darwin"
	}
	switch architecture {
	case "i386":
		architecture, variant = "386", ""
	case "x86_64", "x86-64", "amd64":
		architecture = "amd64"
		if variant == "v1" {
			variant = ""
		}
	case "aarch64", "arm64":
		architecture = "arm64"
		if variant == "8" || variant == "v8" {
			variant = ""
		}
	case "armhf":
		architecture, variant = "arm", "v7"
	case "armel":
		architecture, variant = "arm", "v6"
	case "arm":
		switch variant {
		case "5", "6", "7", "8":
			variant = "v" + variant
		}
	}
	if variant == "" {
		return os + "/" + architecture
	}
	return os + "/" + architecture + "/" + variant
}
