package registrytest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/distribution/distribution/v3"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// WithReferrersAPI serves the referrers API of the OCI distribution
// specification 1.1, at most page descriptors at once (0 = all), with the
// artifactType filter and OCI-Subject. Without this option it is a 404, as it is
// in distribution, and PushReferrer keeps the fallback tag.
func WithReferrersAPI(page int) Option {
	return func(s *settings) { s.referrersAPI, s.referrersPage = true, page }
}

// referring is what the API reads in a manifest or index.
type referring struct {
	MediaType    types.MediaType   `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       *v1.Descriptor    `json:"config"`
	Subject      *v1.Descriptor    `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// serveReferrers answers GET /v2/NAME/referrers/DIGEST.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, request Request) {
	if digest.Digest(request.Reference).Validate() != nil {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
		return
	}
	if known, err := r.Repositories(); err != nil || !slices.Contains(known, request.Repository) {
		writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	listed, err := r.referrers(request.Repository, request.Reference)
	if err != nil {
		writeError(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	query := req.URL.Query()
	if wanted := query.Get("artifactType"); wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		listed = slices.DeleteFunc(listed, func(d v1.Descriptor) bool { return d.ArtifactType != wanted })
	}
	listed = r.referrersPage(w, req.URL, listed)
	w.Header().Set("Content-Type", string(types.OCIImageIndex))
	_ = json.NewEncoder(w).Encode(v1.IndexManifest{ // the client may be gone
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: listed,
	})
}

// referrersPage is the page that the query asks for, with a link to the next.
func (r *Registry) referrersPage(w http.ResponseWriter, at *url.URL, listed []v1.Descriptor) []v1.Descriptor {
	query := at.Query()
	start, _ := strconv.Atoi(query.Get("from")) // 0 on the first page, which has none
	listed = listed[min(max(0, start), len(listed)):]
	if r.settings.referrersPage == 0 || len(listed) <= r.settings.referrersPage {
		return listed
	}
	query.Set("from", strconv.Itoa(start+r.settings.referrersPage))
	w.Header().Set("Link", "<"+at.Path+"?"+query.Encode()+`>; rel="next"`)
	return listed[:r.settings.referrersPage]
}

// referrers are the descriptors of what names the digest as its subject, in the
// order of their digests.
func (r *Registry) referrers(repository, subject string) ([]v1.Descriptor, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	listed := []v1.Descriptor{}
	err = manifests.(distribution.ManifestEnumerator).Enumerate(ctx, func(dgst digest.Digest) error {
		payload, err := r.Manifest(repository, dgst.String())
		if err != nil {
			return err
		}
		var found referring
		if err := json.Unmarshal(payload, &found); err != nil {
			return err
		}
		if found.Subject == nil || found.Subject.Digest.String() != subject {
			return nil
		}
		described := describe(found.MediaType, payload)
		described.ArtifactType, described.Annotations = found.ArtifactType, found.Annotations
		if described.ArtifactType == "" && found.Config != nil {
			described.ArtifactType = string(found.Config.MediaType)
		}
		listed = append(listed, described)
		return nil
	})
	slices.SortFunc(listed, func(a, b v1.Descriptor) int { return slices.Compare([]byte(a.Digest.Hex), []byte(b.Digest.Hex)) })
	return listed, err
}

// subjectWriter adds OCI-Subject to the answer to a PUT of a manifest that has a
// subject: the registry will list it.
type subjectWriter struct {
	http.ResponseWriter
	registry *Registry
	request  Request
}

// Unwrap is as responseWriter's.
func (w *subjectWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *subjectWriter) WriteHeader(status int) {
	if w.request.Kind == KindManifestPut && status == http.StatusCreated {
		var stored referring
		payload, err := w.registry.Manifest(w.request.Repository, w.Header().Get("Docker-Content-Digest"))
		if err == nil && json.Unmarshal(payload, &stored) == nil && stored.Subject != nil {
			w.Header().Set("OCI-Subject", stored.Subject.Digest.String())
		}
	}
	w.ResponseWriter.WriteHeader(status)
}
