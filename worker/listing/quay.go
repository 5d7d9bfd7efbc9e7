package listing

import (
	"encoding/json"
	"errors"
	"net/mail"
	"net/url"
	"strconv"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// quayPath and quaySuffix are the parts of the path of Quay's tag listing before and after
	// the repository. Path and fields are those of ListRepositoryTags in quay/quay,
	// endpoints/api/tag.py, documented at docs.quay.io/api/swagger (listRepoTags).
	quayPath   = "/api/v1/repository/"
	quaySuffix = "/tag/"
)

// quay is the API of Quay, both of quay.io and self-hosted. It lists names, digests and times,
// ordered by the start of a tag's life (quay/quay, data/model/oci/tag.py,
// list_repository_tag_history), without expired tags.
var quay = bulkAPI{target: quayURL, read: readQuay}

func quayURL(repository reference.Repository, page int) url.URL {
	return url.URL{
		Host: repository.Registry(),
		Path: quayPath + repository.Path() + quaySuffix,
		RawQuery: url.Values{
			"limit":          {strconv.Itoa(tagsPerPage)},
			"page":           {strconv.Itoa(page)},
			"onlyActiveTags": {"true"},
		}.Encode(),
	}
}

// quayTag is a tag in Quay's listing. Each field can be absent or null. Quay also sends
// is_manifest_list, which does not determine the media type.
type quayTag struct {
	Name         string `json:"name"`
	Digest       string `json:"manifest_digest"`
	Size         int64  `json:"size"`     // of its layers; null for an index
	Start        int64  `json:"start_ts"` // unix time
	End          int64  `json:"end_ts"`   // unix time
	LastModified string `json:"last_modified"`
	Expiration   string `json:"expiration"`
}

func readQuay(body []byte) (page, error) {
	var answer struct {
		Tags          json.RawMessage `json:"tags"`
		HasAdditional *bool           `json:"has_additional"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return page{}, err
	}
	tags, err := readEntries(answer.Tags, func(name string) quayTag { return quayTag{Name: name} })
	if err != nil {
		return page{}, err
	}
	if tags == nil {
		return page{}, errors.New("no tags in the answer")
	}
	now := time.Now()
	listed := page{items: len(tags), more: len(tags) > 0, content: string(answer.Tags)}
	if answer.HasAdditional != nil {
		listed.more = *answer.HasAdditional
	}
	for _, t := range tags {
		if t.Name == "" {
			return page{}, errNameless
		}
		if end := quayTime(t.End, t.Expiration); !end.IsZero() && !end.After(now) {
			continue
		}
		listed.tags = append(listed.tags, found{name: t.Name, Tag: Tag{
			Digest: digestOf(t.Digest), Updated: quayTime(t.Start, t.LastModified), Size: t.Size,
		}})
	}
	return listed, nil
}

// quayTime returns the time in one of Quay's two formats, or zero.
func quayTime(unix int64, text string) time.Time {
	if unix > 0 {
		return believable(time.Unix(unix, 0))
	}
	if text == "" { // the usual case
		return time.Time{}
	}
	date, err := mail.ParseDate(text) // RFC 2822
	if err != nil {
		return time.Time{}
	}
	return believable(date)
}
