// Package environment hides the secrets of this process from the processes that it starts: skopeo,
// credential helpers, and their own child processes.
package environment

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// allowed are patterns of the variables that child processes get. docs/configuration.md lists them.
var allowed = []string{
	// Any program.
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "PWD", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*", "TERM",
	"LD_LIBRARY_PATH", "LOCALDOMAIN", "RES_OPTIONS", "XDG_*",
	"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK",

	// Connections to registries.
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",

	// containers/image, containers/storage and skopeo.
	"REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "REGISTRIES_CONFIG_PATH", "CONTAINERS_*", "_CONTAINERS_*",
	"STORAGE_*", "GNUPGHOME",

	// Credential helpers, and the libraries of clouds that they use.
	"AWS_*", "AZURE_*", "GOOGLE_*", "CLOUDSDK_*", "GCE_METADATA_*", "ALIBABA_CLOUD_*", "OCI_*",
	"IDENTITY_*", "MSI_*", "IMDS_ENDPOINT", // Azure's managed identities
	"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
	"PASSWORD_STORE_*", "GPG_*", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY",
}

// ours are patterns of variables that may hold secrets of this project. No child process gets them.
var ours = []string{"NATS_*", "MIRROR_*"}

// pattern matches the name of a variable, or the beginning of names followed by *.
var pattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\*?$`)

// Valid reports whether a pattern may be allowed: it is the name of a variable, or the beginning of
// names followed by *, and matches none of our own variables.
func Valid(name string) bool {
	return pattern.MatchString(name) && !matches(ours, strings.TrimSuffix(name, "*"))
}

// Confine removes from this process's environment the variables that are not allowed and match none
// of the further patterns. So no child process can get them, not even one that a library starts.
// Read the settings before.
//
// On Linux, /proc/PID/environ still shows the original variables to the user of the process and to
// root.
func Confine(further []string) {
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		// An empty variable counts as not set, except to containers/image,
		// which takes an empty XDG_CONFIG_HOME for the working directory.
		if value == "" || matches(ours, name) || !matches(allowed, name) && !matches(further, name) {
			_ = os.Unsetenv(name) // the name is valid
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
