package skopeo

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Go programs read the CAs of the system from the first of these files that exists, and from all
// files in these folders (crypto/x509/root_linux.go).
var (
	authorityFiles = []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/cert.pem",
	}
	authorityFolders = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
)

// collector is the GOGC that skopeo gets. With the default of 100, the garbage collector runs several
// times in a copy of a small image; with 200 hardly ever. More saves nothing (docs/architecture.md).
const collector = "200"

// collecting returns the variable that sets the collector, unless the operator has set it.
func collecting(getenv func(string) string) []string {
	if getenv("GOGC") != "" {
		return nil
	}
	return []string{"GOGC=" + collector}
}

// systemAuthorities is authorities for this process's environment. Like this process itself, it does not
// notice CAs that are added later.
var systemAuthorities = sync.OnceValue(func() []string { return authorities(os.Getenv, authorityFiles, authorityFolders) })

// authorities returns variables with which skopeo takes less processor time if it sends its requests
// itself: a quarter less for a small image. It does not change what the operator has set.
//
// skopeo reads all CAs of the system for each copy. On Debian it reads each twice: in the bundle and
// in the folder that also has the bundle. If the bundle has all CAs of the folders, the variables make
// skopeo read only the bundle.
func authorities(getenv func(string) string, files, folders []string) []string {
	if file := getenv("SSL_CERT_FILE"); file != "" {
		files = []string{file}
	}
	if listed := getenv("SSL_CERT_DIR"); listed != "" {
		folders = strings.Split(listed, ":")
	}
	bundle, file := firstOf(files)
	if len(bundle) == 0 || !covers(bundle, folders) {
		return nil
	}
	return []string{"SSL_CERT_FILE=" + file, "SSL_CERT_DIR=" + os.DevNull}
}

// firstOf returns the certificates of the first of the files that exists, and its name.
func firstOf(files []string) (map[string]bool, string) {
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			return certificates(text), file
		}
	}
	return nil, ""
}

// covers reports whether the bundle has all certificates in the folders.
func covers(bundle map[string]bool, folders []string) bool {
	for _, folder := range folders {
		entries, _ := os.ReadDir(folder) // skopeo also ignores what it cannot read
		for _, entry := range entries {
			text, _ := os.ReadFile(filepath.Join(folder, entry.Name()))
			for certificate := range certificates(text) {
				if !bundle[certificate] {
					return false
				}
			}
		}
	}
	return true
}

// certificates returns the certificates that crypto/x509 reads from PEM.
func certificates(text []byte) map[string]bool {
	found := map[string]bool{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return found
		}
		if block.Type == "CERTIFICATE" && len(block.Headers) == 0 {
			found[string(block.Bytes)] = true
		}
	}
}
