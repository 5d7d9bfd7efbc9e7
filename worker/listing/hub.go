package listing

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registry"
)

// hubPath is where Docker Hub lists tags
// (docs.docker.com/reference/api/hub/latest, ListRepositoryTags).
const hubPath = "/v2/namespaces/"

// unknown is the operating system of attestations in an index.
const unknown = "unknown"

// Hub lists with the API of Docker Hub: names, digests, times and platforms, in
// order of the latest push. Strangers get the latest 1,000 tags of it (since
// August 2026); the OCI API adds the names of the others.
type Hub struct{ bulk *bulk }

// Tags implements Lister. A tag that Docker Hub calls inactive can still be
// pulled, and is yielded.
func (h *Hub) Tags(ctx context.Context, repository reference.Repository) iter.Seq2[Tag, error] {
	return h.bulk.tags(ctx, repository, source{
		target: hubURL, read: readHub, notFoundEnds: true, elsewhere: true,
	})
}

// NewestFirst implements Lister.
func (h *Hub) NewestFirst() bool { return true }

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

// hubTag is what we read of a tag. Each field can be absent or null.
type hubTag struct {
	Name        string    `json:"name"`
	Digest      string    `json:"digest"`
	MediaType   string    `json:"media_type"`
	LastUpdated string    `json:"last_updated"` // what the listing is ordered by
	LastPushed  string    `json:"tag_last_pushed"`
	FullSize    int64     `json:"full_size"`
	Images      hubImages `json:"images"`
}

// hubImage is one manifest below a tag, attestations included.
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

// hubTime is the first of several times that can be read, zero for none.
func hubTime(candidates ...string) time.Time {
	for _, text := range candidates {
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// hubPlatforms is none where one of the images does not tell: what has a
// platform we do not know must not be skipped for the others.
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
		if i < 0 { // or another version of Windows
			i = len(platforms)
			platforms = append(platforms, Platform{Name: name})
		}
		platforms[i].Size += image.Size
	}
	return platforms
}

// hubSize is that of all images. full_size is for what has none: of an index it is not
// known to be the sum.
func hubSize(t hubTag) int64 {
	sum := int64(0)
	for _, image := range t.Images {
		sum += image.Size
	}
	return cmp.Or(sum, t.FullSize)
}

// digestOf is the zero value for what is not a digest: a HEAD tells it then.
func digestOf(s string) reference.Digest {
	digest, _ := reference.ParseDigest(s)
	return digest
}
