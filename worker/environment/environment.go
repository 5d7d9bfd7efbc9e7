// Package environment keeps the secrets of this process from the processes it starts:
// skopeo, credential helpers, and whatever these start.
package environment

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// allowed are the variables that processes we start get, as patterns; docs/configuration.md
// lists them.
var allowed = []string{
	// Any program.
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "PWD", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*", "TERM",
	"LD_LIBRARY_PATH", "LOCALDOMAIN", "RES_OPTIONS", "XDG_*",
	"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK",

	// The way to registries.
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",

	// containers/image, containers/storage and skopeo.
	"REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "REGISTRIES_CONFIG_PATH", "CONTAINERS_*", "_CONTAINERS_*",
	"STORAGE_*", "GNUPGHOME",

	// Credential helpers, and the libraries of clouds they are made of.
	"AWS_*", "AZURE_*", "GOOGLE_*", "CLOUDSDK_*", "GCE_METADATA_*", "ALIBABA_CLOUD_*", "OCI_*",
	"IDENTITY_*", "MSI_*", "IMDS_ENDPOINT", // Azure's managed identities
	"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
	"PASSWORD_STORE_*", "GPG_*", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY",
}

// ours hold secrets of this project. No child gets them.
var ours = []string{"NATS_*", "MIRROR_*"}

// pattern is a name, or how names begin.
var pattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\*?$`)

// Valid reports whether a pattern can be added to the allowed ones: the name of a variable
// or, with a * at the end, of several, that is none of ours.
func Valid(name string) bool {
	return pattern.MatchString(name) && !matches(ours, strings.TrimSuffix(name, "*"))
}

// Confine takes everything out of this process's environment that is neither allowed nor
// matches one of the further patterns, so that no process we start can get it, nor one
// that a library starts. The settings have to be read before.
//
// On Linux, /proc/PID/environ of this process keeps showing the variables it was started with,
// to its own user and to root.
func Confine(further []string) {
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		// An empty variable counts as not set, except to containers/image,
		// which takes an empty XDG_CONFIG_HOME for the working directory.
		if value == "" || matches(ours, name) || !matches(allowed, name) && !matches(further, name) {
			_ = os.Unsetenv(name) // it has a name, which is all that can be wrong
		}
	}
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if prefix, more := strings.CutSuffix(pattern, "*"); more {
			return strings.HasPrefix(name, prefix)
		}
		return name == pattern
	})
}
