//go:build containers_image_openpgp

package verify

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

var errAsked = errors.New("asked for something that is not needed to verify signatures")

// maxSignature is more than the 4 MiB that containers/image reads of a signature.
const maxSignature = 5 << 20

// serve answers a request of containers/image. If the path is one of the OCI distribution
// specification, or of signatures that a registry stores, it asks the registry with the worker's
// client. Otherwise, it forwards the request.
func (w *way) serve(to http.ResponseWriter, r *http.Request, target *url.URL) {
	name, isRegistry := strings.CutPrefix(target.Path, "/v2/")
	stored, isStored := strings.CutPrefix(target.Path, "/extensions/v2/")
	switch {
	case r.Method != http.MethodGet:
		w.fail(fmt.Errorf("%w: %s %s", errAsked, r.Method, target.Host))
		http.Error(to, errAsked.Error(), http.StatusMethodNotAllowed)
	case isStored:
		w.fetch(to, target.Host, stored)
	case !isRegistry:
		w.forward(to, target)
	case name == "":
		w.ping(to)
	default:
		w.fetch(to, target.Host, name)
	}
}

// ping answers like the registry, whose header shows whether it stores signatures.
func (w *way) ping(to http.ResponseWriter) {
	stores, err := w.gate.client.StoresSignatures(w.ctx, w.source)
	if err != nil {
		w.fail(err)
		http.Error(to, "no answer", http.StatusBadGateway)
		return
	}
	to.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if stores {
		to.Header().Set("X-Registry-Supports-Signatures", "1")
	}
	_, _ = io.WriteString(to, "{}") // the client may be gone
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

// read returns the manifest or blob at a path. It reads each only once.
func (w *way) read(host, name string) ([]byte, string, error) {
	w.mu.Lock()
	known, ok := w.found[host+"/"+name]
	w.mu.Unlock()
	if ok {
		return known.body, known.mediaType, known.err
	}
	body, mediaType, err := w.get(host, name)
	if err == nil || errors.Is(err, registry.ErrNotFound) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.found[host+"/"+name] = content{body, mediaType, err}
	}
	return body, mediaType, err
}

// get gets the manifest or blob at a path.
func (w *way) get(host, name string) ([]byte, string, error) {
	resource, ref := cut(name, "/")
	repository, kind := cut(resource, "/")
	source, err := w.repository(host, repository)
	if err != nil {
		return nil, "", err
	}
	digest, notDigest := reference.ParseDigest(ref)
	switch {
	case kind == "manifests" && w.names(ref):
		return w.manifest.Raw, w.manifest.MediaType, nil
	case kind == "manifests" && notDigest == nil:
		return w.pull(source, digest)
	case kind == "manifests":
		tag, err := reference.ParseTag(ref)
		if err != nil {
			return nil, "", err
		}
		return w.pull(source, tag)
	case kind == "signatures" && notDigest == nil:
		list, err := w.gate.client.Signatures(w.ctx, source, digest)
		return list, "application/json", err
	case kind == "blobs" && notDigest == nil:
		content, err := w.gate.client.Config(w.ctx, source, digest)
		return content, "application/octet-stream", err
	}
	return nil, "", fmt.Errorf("%w: %s", errAsked, reference.Quote(name))
}

// names reports whether a reference is a tag or the digest of the image. The registry may have
// another image under the tag by now.
func (w *way) names(ref string) bool {
	return ref == w.manifest.Digest.String() ||
		slices.ContainsFunc(w.tags, func(tag reference.Tag) bool { return !tag.IsZero() && tag.String() == ref })
}

// pull gets a manifest.
func (w *way) pull(source reference.Repository, name reference.TagOrDigest) ([]byte, string, error) {
	manifest, err := w.gate.client.Get(w.ctx, source, name)
	if asked := (*registry.Error)(nil); err == nil || errors.As(err, &asked) && asked.Status != 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pulls++
	}
	return manifest.Raw, manifest.MediaType, err
}

// cut cuts at the last separator.
func cut(text, separator string) (before, after string) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return "", text
	}
	return text[:i], text[i+len(separator):]
}

// repository returns the repository of a request: the image's own, for which containers/image may
// use another host name, or that of a mirror in registries.conf.
func (w *way) repository(host, name string) (reference.Repository, error) {
	if name == w.source.Path() {
		return w.source, nil
	}
	return reference.ParseRepository(host + "/" + name)
}

// forward answers with the answer of a server that is not a registry.
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
