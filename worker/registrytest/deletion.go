package registrytest

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/distribution/distribution/v3"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// Deletion is how a registry deletes tags and manifests. Without WithDeletion, it does so as
// distribution 3: a tag alone, and a manifest with its tags.
type Deletion int

// The ways of deleting.
const (
	// DeletesDigests deletes a manifest with its tags, and answers 405 to the deletion of a tag:
	// distribution 2 (registry/handlers/manifests.go), Pulp and Azure Container Registry.
	DeletesDigests Deletion = iota + 1
	// DeletesLikeHarbor refuses tags with 400, deletes a manifest with its tags, its accessories
	// and the children that nothing else needs, and refuses with 412 if an index needs it or one
	// of its tags is immutable (goharbor/harbor, src/server/registry/manifest.go,
	// src/controller/artifact). With WithHarborAPI, that deletes single tags.
	DeletesLikeHarbor
	// DeletesLikeQuay deletes a tag alone, and with a manifest its tags. A manifest without tags
	// is not found (quay/quay, endpoints/v2/manifest.py).
	DeletesLikeQuay
	// DeletesLikeZot deletes a tag alone, and an index with its children that nothing else needs.
	// It answers 405 with the code DENIED if an index needs the manifest (project-zot/zot,
	// pkg/api/routes.go).
	DeletesLikeZot
	// DeletesLikeArtifactRegistry deletes a tag alone, and refuses a manifest that has tags or is
	// in an index, with codes of its own.
	DeletesLikeArtifactRegistry
	// DeletesLikeNexus keeps the tags of a manifest that it deletes (sonatype/nexus-public#925).
	DeletesLikeNexus
	// DeletesTogether deletes a tag with its manifest and the other tags of that, as Artifact
	// Keeper does (artifact-keeper/artifact-keeper#769).
	DeletesTogether
	// DeletesNothing answers 404 to all deletions, as Amazon ECR did until 2023.
	DeletesNothing
)

// WithDeletion makes the registry delete in another way. Tags that match one of the immutable
// names are immutable in the way of Harbor.
func WithDeletion(d Deletion, immutable ...string) Option {
	return func(s *settings) { s.deletion, s.immutable = d, immutable }
}

// serveDeletion answers the deletion of a manifest or tag. It returns false for those that the
// registry's own implementation answers.
func (r *Registry) serveDeletion(w http.ResponseWriter, request Request) bool {
	if request.Method != http.MethodDelete || r.settings.deletion == 0 || !strings.Contains(request.Path, "/manifests/") {
		return false
	}
	repository, name := request.Repository, request.Reference
	dgst, err := r.Digest(repository, name)
	isTag := !strings.Contains(name, ":")
	switch {
	case r.settings.deletion == DeletesNothing:
		http.Error(w, "404 page not found", http.StatusNotFound)
		return true
	case isTag && r.settings.deletion == DeletesDigests:
		writeError(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported.")
		return true
	case isTag && r.settings.deletion == DeletesLikeHarbor:
		writeError(w, http.StatusBadRequest, "UNSUPPORTED", "unsupported digest "+name)
		return true
	case err != nil:
		writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return true
	case isTag && r.settings.deletion == DeletesTogether:
		r.deleteDigest(repository, dgst)
		w.WriteHeader(http.StatusAccepted)
		return true
	case isTag && r.settings.deletion == DeletesLikeNexus:
		_ = r.Untag(repository, name)
		if len(r.tagsOf(repository, dgst)) == 0 { // each tag has a copy of its manifest
			_ = r.DeleteManifest(repository, dgst)
		}
		w.WriteHeader(http.StatusAccepted)
		return true
	case isTag:
		return false
	}
	return r.serveDigestDeletion(w, repository, dgst)
}

func (r *Registry) serveDigestDeletion(w http.ResponseWriter, repository, dgst string) bool {
	tags, parents := r.tagsOf(repository, dgst), r.parents(repository, dgst)
	isImmutable := func(tag string) bool { return slices.Contains(r.settings.immutable, tag) }
	switch d := r.settings.deletion; {
	case d == DeletesLikeHarbor && len(parents) > 0:
		writeError(w, http.StatusPreconditionFailed, "VIOLATE_FOREIGN_KEY_CONSTRAINT", "the deleting artifact is referenced by others")
	case d == DeletesLikeHarbor && slices.ContainsFunc(tags, isImmutable):
		writeError(w, http.StatusPreconditionFailed, "PRECONDITION", "the tag "+tags[0]+" configured as immutable, cannot be deleted")
	case d == DeletesLikeQuay && len(tags) == 0:
		writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
	case d == DeletesLikeZot && len(parents) > 0:
		writeError(w, http.StatusMethodNotAllowed, "DENIED", "requested access to the resource is denied")
	case d == DeletesLikeArtifactRegistry && len(tags) > 0:
		writeError(w, http.StatusBadRequest, "GOOGLE_MANIFEST_DANGLING_TAG", "Manifest is still referenced by one or more tags")
	case d == DeletesLikeArtifactRegistry && len(parents) > 0:
		writeError(w, http.StatusBadRequest, "GOOGLE_MANIFEST_DANGLING_PARENT_IMAGE", "Manifest is still referenced by another manifest")
	case d == DeletesLikeNexus && len(tags) > 0:
		w.WriteHeader(http.StatusAccepted)
	case d == DeletesLikeHarbor, d == DeletesLikeZot:
		r.deleteDeeply(repository, dgst)
		w.WriteHeader(http.StatusAccepted)
	default:
		return false
	}
	return true
}

// deleteDeeply deletes a manifest with its tags, and the children that have no tags and are in
// no other index.
func (r *Registry) deleteDeeply(repository, dgst string) {
	children, _ := r.Children(repository, dgst)
	r.deleteDigest(repository, dgst)
	for _, child := range children {
		name := child.Digest.String()
		if len(r.tagsOf(repository, name)) == 0 && len(r.parents(repository, name)) == 0 {
			r.deleteDeeply(repository, name)
		}
	}
}

// deleteDigest deletes a manifest with its tags, as far as they are there.
func (r *Registry) deleteDigest(repository, dgst string) {
	for _, tag := range r.tagsOf(repository, dgst) {
		_ = r.Untag(repository, tag)
	}
	_ = r.DeleteManifest(repository, dgst)
}

// tagsOf returns the tags of a digest.
func (r *Registry) tagsOf(repository, dgst string) []string {
	tags, _ := r.Tags(repository) // none if it does not exist
	return slices.DeleteFunc(tags, func(tag string) bool {
		at, err := r.Digest(repository, tag)
		return err != nil || at != dgst
	})
}

// Digests returns the digests of all manifests of a repository, in their order, with and without
// tags.
func (r *Registry) Digests(repository string) []string {
	repo, err := r.repository(repository)
	if err != nil {
		return nil
	}
	ctx := context.Background()
	manifests, err := repo.Manifests(ctx)
	enumerator, ok := manifests.(distribution.ManifestEnumerator)
	if err != nil || !ok {
		return nil
	}
	var all []string
	_ = enumerator.Enumerate(ctx, func(d digest.Digest) error { // it fails if there are none
		all = append(all, d.String())
		return nil
	})
	slices.Sort(all)
	return all
}

// parents returns the indexes of a repository that list a digest.
func (r *Registry) parents(repository, dgst string) (parents []string) {
	for _, name := range r.Digests(repository) {
		children, _ := r.Children(repository, name) // none if it is no index
		if slices.ContainsFunc(children, func(child v1.Descriptor) bool { return child.Digest.String() == dgst }) {
			parents = append(parents, name)
		}
	}
	return parents
}

// serveHarborDeletion deletes a tag of an artifact as Harbor's own API does (DeleteTag in
// src/server/v2.0/handler/artifact.go). It returns false for other requests.
func (r *Registry) serveHarborDeletion(w http.ResponseWriter, req *http.Request) bool {
	artifact, tag, found := strings.Cut(req.URL.Path, "/tags/")
	i := strings.LastIndex(artifact, harborSuffix+"/")
	if req.Method != http.MethodDelete || r.settings.harborAPI == nil || !found || i < 0 {
		return false
	}
	repository, ok := harborRepository(artifact[:i] + harborSuffix)
	if !ok {
		return false
	}
	at, err := r.Digest(repository, tag)
	switch {
	case r.private() && !r.knowsUser(req):
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "unauthorized")
	case err != nil, at != artifact[i+len(harborSuffix)+1:]:
		writeError(w, http.StatusNotFound, "NOT_FOUND", "tag "+tag+" attached to artifact 1 not found")
	case slices.Contains(r.settings.immutable, tag):
		writeError(w, http.StatusPreconditionFailed, "PRECONDITION", "the tag "+tag+" configured as immutable, cannot be deleted")
	default:
		_ = r.Untag(repository, tag)
		w.WriteHeader(http.StatusOK)
	}
	return true
}
