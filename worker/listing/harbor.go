package listing

import (
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// harborPath begins the path of Harbor's artifact listing (goharbor/harbor,
// api/v2.0/swagger.yaml, listArtifacts). The project follows.
const harborPath = "/api/v2.0/projects/"

// maxArtifactTags limits the tags of an artifact. Harbor sends all of them.
const maxArtifactTags = 100_000

// harbor is the API of Harbor 2. It lists artifacts, which are digests, with the names of their
// tags. It leaves out accessories, such as signatures, so it serves destinations only.
var harbor = bulkAPI{target: harborURL, read: readHarbor, linked: true}

// harborURL escapes the repository twice, because a proxy in front of Harbor unescapes the path:
// once here, and once when the URL becomes text.
func harborURL(repository reference.Repository, page int) url.URL {
	project, name, _ := strings.Cut(repository.Path(), "/")
	return url.URL{
		Host: repository.Registry(),
		Path: harborPath + project + "/repositories/" + url.PathEscape(name) + "/artifacts",
		RawQuery: url.Values{
			"page":      {strconv.Itoa(page)},
			"page_size": {strconv.Itoa(tagsPerPage)},
			"q":         {"tags=*"}, // only artifacts that have tags
			"with_tag":  {"true"},
		}.Encode(),
	}
}

// harborArtifact is an artifact in Harbor's listing. Each field can be absent or null.
type harborArtifact struct {
	Digest    string          `json:"digest"`
	MediaType string          `json:"manifest_media_type"`
	Tags      json.RawMessage `json:"tags"`
}

func readHarbor(body []byte) (page, error) {
	artifacts, err := registry.ReadList[harborArtifact](body, maxItems)
	if err != nil {
		return page{}, err
	}
	listed := page{items: len(artifacts), content: string(body)}
	for _, a := range artifacts {
		digest := digestOf(a.Digest)
		if digest.IsZero() {
			return page{}, errors.New("an artifact without a digest in the answer")
		}
		tags, err := registry.ReadList[struct {
			Name string `json:"name"`
		}](a.Tags, maxArtifactTags)
		if err != nil {
			return page{}, err
		}
		for _, t := range tags {
			if t.Name == "" {
				return page{}, errNameless
			}
			listed.tags = append(listed.tags, found{name: t.Name, Tag: Tag{Digest: digest, MediaType: a.MediaType}})
		}
	}
	return listed, nil
}
