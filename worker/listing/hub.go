package listing

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registry"
)

// hubPath begins the path of Docker Hub's tag listing
// (docs.docker.com/reference/api/hub/latest, ListRepositoryTags). The namespace follows.
const hubPath = "/v2/namespaces/"

// unknown is the operating system of attestations in an index.
const unknown = "unknown"

// hub is the API of Docker Hub. It lists names, digests, times and platforms. Without a login it
// returns the newest 1,000 tags of a repository (since August 2026); the OCI API adds the names of
// the others. It also lists tags with the status "inactive", which can still be pulled.
var hub = bulkAPI{target: hubURL, read: readHub, elsewhere: true}

func hubURL(repository reference.Repository, page int) url.URL {
	namespace, name, _ := strings.Cut(repository.Path(), "/")
	path := hubPath + namespace + "/repositories/"
	return url.URL{
		Host:    reference.DockerHubAPI,
		Path:    path + name + "/tags",
		RawPath: path + url.PathEscape(name) + "/tags",
		RawQuery: url.Values{
			"page":      {strconv.Itoa(page)},
			"page_size": {strconv.Itoa(tagsPerPage)},
		}.Encode(),
	}
}

// hubTag is a tag in Docker Hub's listing. Each field can be absent or null.
type hubTag struct {
	Name        string    `json:"name"`
	Digest      string    `json:"digest"`
	MediaType   string    `json:"media_type"`
	LastUpdated string    `json:"last_updated"` // the order of the listing
	LastPushed  string    `json:"tag_last_pushed"`
	FullSize    int64     `json:"full_size"`
	Images      hubImages `json:"images"`
}

// hubImage is a manifest of a tag, possibly an attestation.
type hubImage struct {
	selection.Platform
	Size int64 `json:"size"`
}

type hubImages []hubImage

func (i *hubImages) UnmarshalJSON(data []byte) (err error) {
	*i, err = registry.ReadList[hubImage](data, maxItems)
	return err
}

func readHub(body []byte) (page, error) {
	var answer struct {
		Next    string          `json:"next"` // a URL; null on the last page
		Results json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return page{}, err
	}
	results, err := readEntries(answer.Results, func(name string) hubTag { return hubTag{Name: name} })
	if err != nil {
		return page{}, err
	}
	if results == nil {
		return page{}, errors.New("no results in the answer")
	}
	listed := page{items: len(results), more: answer.Next != "", content: string(answer.Results)}
	for _, t := range results {
		if t.Name == "" {
			return page{}, errNameless
		}
		listed.tags = append(listed.tags, found{name: t.Name, Tag: Tag{
			Digest: digestOf(t.Digest), MediaType: t.MediaType,
			Updated: hubTime(t.LastUpdated, t.LastPushed), Size: hubSize(t), Platforms: hubPlatforms(t.Images),
		}})
	}
	return listed, nil
}

// hubTime returns the latest of the valid times, or zero. The digest is at least as old.
func hubTime(candidates ...string) (last time.Time) {
	for _, text := range candidates {
		if t, err := time.Parse(time.RFC3339, text); err == nil && t.After(last) {
			last = believable(t)
		}
	}
	return last
}

// hubPlatforms returns the platforms of a tag. If one image lacks its platform, it returns none: a
// tag that may have further platforms must not be skipped.
func hubPlatforms(images []hubImage) []Platform {
	var platforms []Platform
	for _, image := range images {
		if image.OS == unknown {
			continue
		}
		if image.OS == "" || image.Architecture == "" {
			return nil
		}
		name := image.String()
		i := slices.IndexFunc(platforms, func(p Platform) bool { return p.Name == name })
		if i < 0 { // otherwise it is another version of Windows
			i = len(platforms)
			platforms = append(platforms, Platform{Name: name})
		}
		platforms[i].Size += image.Size
	}
	return platforms
}

// hubSize returns the size of all images, or full_size if no image has a size. For an index,
// full_size is not documented to be the sum.
func hubSize(t hubTag) int64 {
	sum := int64(0)
	for _, image := range t.Images {
		sum += image.Size
	}
	return cmp.Or(sum, t.FullSize)
}

// digestOf returns a digest, or zero if the text is not a valid one.
func digestOf(s string) reference.Digest {
	digest, _ := reference.ParseDigest(s)
	return digest
}
