package registrytest

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// WithHarborAPI lists artifacts at /api/v2.0/projects/PROJECT/repositories/NAME/artifacts as
// Harbor 2 does (goharbor/harbor, src/server/v2.0/handler): 100 a page at most, with a Link
// to the next one. A slash in NAME is escaped twice. What has no tag is listed, too, unless
// q is tags=*; signatures and manifests of an index are not. If the registry needs
// credentials, the API takes its user and password; it takes no token. A repository that does
// not exist has no artifacts. Of the quirks, WithoutDigest, PageLimit and AfterPage apply.
func WithHarborAPI(api BulkAPI) Option {
	return func(s *settings) { s.harborAPI = &api }
}

// The path of Harbor's artifact listing, and its page sizes (api/v2.0/swagger.yaml).
const (
	harborPrefix       = "/api/v2.0/projects/"
	harborRepositories = "/repositories/"
	harborSuffix       = "/artifacts"
	harborDefaultSize  = 10
)

// harborTagged is the query for artifacts with tags.
const harborTagged = "tags=*"

// harborDate is the format of Harbor's times.
const harborDate = "2006-01-02T15:04:05.000Z"

// accessory matches the tags of what Harbor keeps as an accessory of an artifact.
var accessory = regexp.MustCompile(`^sha256-[0-9a-f]{64}\.sig$`)

// harborRepository returns the repository of a path that has been unescaped once.
func harborRepository(path string) (string, bool) {
	between, ok := cutAround(path, harborPrefix, harborSuffix)
	project, escaped, found := strings.Cut(between, harborRepositories)
	name, err := url.PathUnescape(escaped)
	if !ok || !found || err != nil || strings.Contains(escaped, "/") || strings.Contains(project, "/") {
		return "", false
	}
	return project + "/" + name, true
}

// harborArtifact is a digest with its tags, the newest first.
type harborArtifact struct {
	digest string
	tags   []life
}

// serveHarbor answers as Harbor does.
func (r *Registry) serveHarbor(w http.ResponseWriter, req *http.Request, request Request) {
	api, query := r.settings.harborAPI, req.URL.Query()
	size := number(query, "page_size", harborDefaultSize)
	q := query.Get("q")
	switch {
	case r.private() && !r.knowsUser(req):
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "unauthorized")
		return
	case size > bulkPageLimit:
		writeError(w, http.StatusUnprocessableEntity, "UNPROCESSABLE_ENTITY", "page_size in query should be less than or equal to 100")
		return
	case q != "" && q != harborTagged:
		writeError(w, http.StatusBadRequest, "BAD_REQUEST", "invalid query "+q)
		return
	}
	if api.PageLimit > 0 {
		size = min(size, api.PageLimit)
	}
	all := r.harborArtifacts(request.Repository, q == "")
	start := min((request.Page-1)*size, len(all))
	page := all[start:min(start+size, len(all))]
	artifacts := []map[string]any{}
	for _, a := range page {
		artifacts = append(artifacts, api.harborArtifact(a, query.Get("with_tag") != "false"))
	}
	w.Header().Set("X-Total-Count", fmt.Sprint(len(all)))
	if links := harborLinks(req.URL, request.Page, size, len(all)); links != "" {
		w.Header().Set("Link", links)
	}
	api.read(request.Repository, request.Page)
	writeJSON(w, http.StatusOK, artifacts)
}

// knowsUser reports whether a request has the user and password of the registry.
func (r *Registry) knowsUser(req *http.Request) bool {
	user, password, _ := req.BasicAuth()
	if r.tokens == nil {
		return r.login.Load().match(user, password)
	}
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	return r.tokens.login.match(user, password)
}

// harborArtifacts returns the artifacts of a repository, the latest push first.
func (r *Registry) harborArtifacts(repository string, untagged bool) []harborArtifact {
	lives, _ := r.chronicle(repository, false) // none if it does not exist
	var all []harborArtifact
	for _, l := range lives {
		dgst := l.digest
		if dgst == "" {
			dgst, _ = r.Digest(repository, l.tag)
		}
		i := slices.IndexFunc(all, func(a harborArtifact) bool { return a.digest == dgst })
		switch {
		case accessory.MatchString(l.tag):
		case i < 0:
			all = append(all, harborArtifact{dgst, []life{l}})
		default:
			all[i].tags = append(all[i].tags, l)
		}
	}
	if !untagged {
		return all
	}
	for _, dgst := range r.heads(repository) {
		if !slices.ContainsFunc(all, func(a harborArtifact) bool { return a.digest == dgst }) {
			all = append(all, harborArtifact{digest: dgst})
		}
	}
	return all
}

// heads returns the digests of a repository that no index in it lists.
func (r *Registry) heads(repository string) []string {
	all := r.Digests(repository)
	return slices.DeleteFunc(slices.Clone(all), func(dgst string) bool { return len(r.parents(repository, dgst)) > 0 })
}

// harborArtifact is an artifact as Harbor lists it.
func (api *BulkAPI) harborArtifact(a harborArtifact, withTags bool) map[string]any {
	fields := map[string]any{
		"accessories": nil, "addition_links": map[string]any{}, "digest": a.digest, "icon": "", "labels": nil,
		"media_type": "application/vnd.docker.container.image.v1+json", "project_id": 1, "repository_id": 1,
		"references": nil, "size": 1, "type": "IMAGE", "tags": nil,
	}
	var tags []map[string]any
	for _, l := range a.tags {
		pushed := l.start.UTC().Format(harborDate)
		fields["push_time"] = cmp.Or(fields["push_time"], any(pushed))
		tags = append(tags, map[string]any{
			"artifact_id": 1, "id": l.number, "immutable": false, "name": l.tag, "repository_id": 1,
			"pull_time": "0001-01-01T00:00:00.000Z", "push_time": pushed,
		})
		if slices.Contains(api.WithoutDigest, l.tag) {
			delete(fields, "digest")
		}
	}
	if withTags && tags != nil {
		fields["tags"] = tags
	}
	return fields
}

// harborLinks returns the links to the pages before and after one. Harbor unescapes their
// query.
func harborLinks(u *url.URL, page, size, total int) string {
	link := func(page int, rel string) string {
		query := u.Query()
		query.Set("page", fmt.Sprint(page))
		query.Set("page_size", fmt.Sprint(size))
		target := *u
		target.RawQuery, _ = url.QueryUnescape(query.Encode()) // it was just escaped
		return fmt.Sprintf(`<%s>; rel="%s"`, target.String(), rel)
	}
	var links []string
	if page > 1 && (page-1)*size < total {
		links = append(links, link(page-1, "prev"))
	}
	if page*size < total {
		links = append(links, link(page+1, "next"))
	}
	return strings.Join(links, " , ")
}
