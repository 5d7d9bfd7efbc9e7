//go:build containers_image_openpgp

package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// maxSignature is more than containers/image reads of a signature (4 MiB).
const maxSignature = 5 << 20

// serve answers what is asked of a target: from the registry, what the distribution
// specification has there, and everything else as it is.
func (w *way) serve(to http.ResponseWriter, r *http.Request, target *url.URL) {
	name, isRegistry := strings.CutPrefix(target.Path, "/v2/")
	switch {
	case r.Method != http.MethodGet:
		w.fail(fmt.Errorf("%w: %s %s", errAsked, r.Method, target.Host))
		http.Error(to, errAsked.Error(), http.StatusMethodNotAllowed)
	case !isRegistry:
		w.forward(to, target)
	case name == "":
		to.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		_, _ = io.WriteString(to, "{}") // whoever asks may be gone
	default:
		w.fetch(to, target.Host, name)
	}
}

// fetch answers with a manifest or a blob.
func (w *way) fetch(to http.ResponseWriter, host, name string) {
	content, mediaType, err := w.read(host, name)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		to.Header().Set("Content-Type", "application/json")
		to.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(to, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	case err != nil:
		w.fail(err)
		http.Error(to, "no answer", http.StatusBadGateway)
	default:
		to.Header().Set("Content-Type", mediaType)
		_, _ = to.Write(content)
	}
}

// read asks the client for what a path names.
func (w *way) read(host, name string) ([]byte, string, error) {
	resource, ref := cut(name, "/")
	repository, kind := cut(resource, "/")
	source, err := w.repository(host, repository)
	if err != nil {
		return nil, "", err
	}
	digest, err := reference.ParseDigest(ref)
	switch {
	case kind == "manifests" && err == nil && digest == w.manifest.Digest:
		return w.manifest.Raw, w.manifest.MediaType, nil
	case kind == "manifests" && err == nil:
		manifest, err := w.gate.client.Get(w.ctx, source, digest)
		return manifest.Raw, manifest.MediaType, err
	case kind == "manifests":
		tag, err := reference.ParseTag(ref)
		if err != nil {
			return nil, "", err
		}
		manifest, err := w.gate.client.Get(w.ctx, source, tag)
		return manifest.Raw, manifest.MediaType, err
	case kind == "blobs" && err == nil:
		content, err := w.gate.client.Config(w.ctx, source, digest)
		return content, "application/octet-stream", err
	}
	return nil, "", fmt.Errorf("%w: %s", errAsked, reference.Quote(name))
}

// cut cuts at the last separator.
func cut(text, separator string) (before, after string) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return "", text
	}
	return text[:i], text[i+len(separator):]
}

// repository is the one that containers/image asks for: the image's own, whatever its host
// is called there, or that of a mirror in registries.conf.
func (w *way) repository(host, name string) (reference.Repository, error) {
	if name == w.source.Path() {
		return w.source, nil
	}
	return reference.ParseRepository(host + "/" + name)
}

// forward asks for what is no registry's.
func (w *way) forward(to http.ResponseWriter, target *url.URL) {
	request, err := http.NewRequestWithContext(w.ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		w.fail(err)
		http.Error(to, "no answer", http.StatusBadGateway)
		return
	}
	response, err := w.gate.forward.Do(request)
	if err == nil {
		defer response.Body.Close()
	}
	var body []byte
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(response.Body, maxSignature))
	}
	if err == nil && (response.StatusCode/100 == 5 || response.StatusCode == http.StatusTooManyRequests) {
		err = fmt.Errorf("%s answered %d", target.Host, response.StatusCode)
	}
	if err != nil {
		w.fail(fmt.Errorf("reading signatures: %w", err))
		http.Error(to, "no answer", http.StatusBadGateway)
		return
	}
	to.Header().Set("Content-Type", response.Header.Get("Content-Type"))
	to.WriteHeader(response.StatusCode)
	_, _ = io.Copy(to, bytes.NewReader(body))
}

// selfSigned makes a certificate that is only ever shown on loopback.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
